// Reading any bytes as a recipe gives a Recipe or a RecipeError.
#include <catch2/catch.hpp>
#include <random>

#include "recipes/settings/recipe.h"

using namespace conclave;

namespace {

/// Whether `text` is a valid recipe. Fails the test for a RecipeError without a message.
bool reads(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_recipe(text, "fuzz.toml", overrides);
    return true;
  } catch (const RecipeError& error) {
    REQUIRE(std::string(error.what()).size() > 5);
    return false;
  }
}

}  // namespace

TEST_CASE("mutations of a valid recipe give a recipe or a RecipeError", "[recipe][fuzz]") {
  const std::string valid = to_toml(Recipe{}, true);
  const std::vector<std::string> pieces = {"[",
                                           "]",
                                           "[[",
                                           "{",
                                           "}",
                                           "=",
                                           "\"",
                                           "'''",
                                           ".",
                                           "\n",
                                           "\\u",
                                           "nan",
                                           "inf",
                                           "-",
                                           "1e30",
                                           "0x",
                                           "true",
                                           "[moe]",
                                           "moe.experts = ",
                                           "#",
                                           "\xff",
                                           "\x01",
                                           "\r",
                                           "1979-05-27",
                                           "9999999999999999999",
                                           "\"\"\""};
  std::mt19937 random(1);
  const auto below = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
  };
  int read = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = valid;
    for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
      const std::size_t at = below(text.size());
      switch (below(5)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 1:
          text.erase(at, 1 + below(20));
          break;
        case 2:
          text.insert(at, pieces[below(pieces.size())]);
          break;
        case 3:
          text.insert(at, text.substr(below(text.size()), below(200)));
          break;
        default:
          text.resize(at + 1);
      }
    }
    read += reads(text);
  }
  CHECK(read > 0);  // changes within comments do not matter
  CHECK(read < 3000);
}

TEST_CASE("random bytes give a recipe or a RecipeError", "[recipe][fuzz]") {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    std::string text(1 + random() % 200, '\0');
    for (char& c : text) c = static_cast<char>(round % 2 ? random() % 256 : 32 + random() % 95);
    reads(text);
    reads("", {text});
    reads("", {"moe.experts=" + text});
    reads("", {"run.name=" + text});
  }
}

TEST_CASE("a recipe with very deep nesting is refused", "[recipe][fuzz]") {
  const auto repeated = [](const std::string& text, std::size_t bytes, std::string all = "") {
    while (all.size() < bytes) all += text;
    return all;
  };
  for (const std::size_t bytes : {4000u, 60000u, 10000000u}) {
    CHECK_FALSE(reads(repeated("a.", bytes) + "a = 1"));
    CHECK_FALSE(reads(repeated("a.", bytes, "[") + "a]"));
    CHECK_FALSE(reads(repeated("[", bytes, "a = ")));
    CHECK_FALSE(reads(repeated("{a = ", bytes, "a = ")));
    CHECK_FALSE(reads("", {repeated("[", bytes, "moe.experts=")}));
    CHECK_FALSE(reads("", {repeated("a.", bytes, "moe.experts={") + "a = 1}"}));
    CHECK_FALSE(reads("", {repeated("a.", bytes) + "=1"}));
  }
}

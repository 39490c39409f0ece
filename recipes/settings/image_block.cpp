#include "recipes/settings/image_block.h"

#include <fmt/format.h>

#include <charconv>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "recipes/settings/recipe_text.h"

namespace conclave {
namespace {

constexpr const char* kAllowed =
    "a block reads like \"k3 x4 c24 s2 se hs\": its window (k1, k3, k5, ...), expansion (x1, x2, ...) and "
    "channels (c1 to c65536) and, if wanted, a stride (s1 or s2), squeeze-excitation (se), and relu or hs";
constexpr Index kMost = 1 << 16;

// 0 if the text is not a number, or not an allowed one.
Index number_in(std::string_view text) {
  Index number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && number >= 1 && number <= kMost ? number : 0;
}

}  // namespace

ImageBlock image_block(const std::string& text) {
  const auto refuse = [&](const std::string& problem) {
    fail("image block \"{}\": {}; {}", recipe_text::readable(text), problem, kAllowed);
  };
  ImageBlock block;
  std::string given;  // one letter for each word so far
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const bool flag = word == "se" || word == "hs" || word == "relu";
    const char kind = word == "se" ? 'e' : flag ? 'a' : word.front();
    const Index number = flag ? 0 : number_in(std::string_view(word).substr(1));
    const bool sized = number > 0 && std::string_view("kxcs").find(kind) != std::string_view::npos;
    if (!flag && !sized) refuse(fmt::format("'{}' is not one of its words", recipe_text::readable(word)));
    if (given.find(kind) != std::string::npos)
      refuse(fmt::format("'{}' comes after another of its kind", word));
    given += kind;
    if (kind == 'k') block.window = number;
    if (kind == 'x') block.expansion = number;
    if (kind == 'c') block.channels = number;
    if (kind == 's') block.stride = number;
    if (kind == 'e') block.squeeze_excite = true;
    if (kind == 'a') block.activation = word == "hs" ? Activation::hard_swish : Activation::relu;
  }
  for (const auto& [kind, what] : {std::pair{'k', "window"}, {'x', "expansion"}, {'c', "channels"}})
    if (given.find(kind) == std::string::npos) refuse(fmt::format("it has no {} ({}...)", what, kind));
  if (block.window % 2 == 0) refuse(fmt::format("'k{}' has no pixel in the middle", block.window));
  if (block.stride > 2) refuse(fmt::format("'s{}' skips pixels", block.stride));
  return block;
}

}  // namespace conclave

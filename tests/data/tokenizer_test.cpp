#include "data/tokenizer.h"

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "core/file.h"
#include "core/random.h"
#include "data/wordnet.h"
#include "tests/data/full_disk.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;

namespace {

const std::vector<TextExample>& glosses() {
  static const std::vector<TextExample> texts = [] {
    auto train = read_wordnet(kWordNetDirectory, "noun").train;
    train.resize(3000);
    return train;
  }();
  return texts;
}

const Tokenizer& small() {
  static const Tokenizer tokenizer = Tokenizer::train(glosses(), 800, "");
  return tokenizer;
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    files.push_back(entry.path().string());
  return files;
}

}  // namespace

TEST_CASE("training a tokenizer twice gives the same bits", "[data][unsanitized]") {
  CHECK(Tokenizer::train(glosses(), 800, "").bytes() == small().bytes());
  CHECK(small().vocabulary() == 800);
}

TEST_CASE("decoding an encoding gives the lower-cased text", "[data]") {
  const auto ids = small().encode("An  ANIMAL that lives in Water\n");
  REQUIRE(!ids.empty());
  for (const auto id : ids) CHECK((id >= 0 && id < small().vocabulary() && id != small().unknown()));
  CHECK(small().decode(ids) == "an animal that lives in water");
  CHECK_THAT(small().piece(ids[0]), Contains("\xE2\x96\x81"));
  CHECK(small().encode(" \t\n").empty());
  CHECK(small().encode("\xE6\xBC\xA2").back() == small().unknown());
  CHECK_NOTHROW(small().encode("\xFF\xFE broken UTF-8"));
  CHECK_THAT(error_of([] { small().decode(std::vector<std::int32_t>{800}); }), Contains("800"));
  CHECK_THAT(error_of([] { small().piece(-1); }), Contains("-1"));
}

TEST_CASE("a split is cut to max_length and has no empty sequence", "[data]") {
  const std::vector<TextExample> texts{{"an animal that lives in water", 3}, {"  ", 1}, {"plant", 2}};
  const TokenizedSplit split = small().encode_split(texts, 4);
  REQUIRE(split.size() == 3);
  CHECK(split.labels == std::vector<std::int32_t>{3, 1, 2});
  CHECK(split.length(0) == 4);
  CHECK(split.length(1) == 1);
  CHECK(split.sequence(1)[0] == small().unknown());
  const auto whole = small().encode(texts[0].text);
  CHECK(std::equal(split.sequence(0).begin(), split.sequence(0).end(), whole.begin()));
  CHECK(split.offsets.back() == static_cast<std::int64_t>(split.tokens.size()));
  CHECK_THROWS_AS(small().encode_split(texts, 0), Error);
}

TEST_CASE("a pair is one sequence, with a separator that no text spells", "[data]") {
  std::vector<TextExample> pairs;
  for (std::size_t i = 0; i < 600; i += 2)
    pairs.push_back({glosses()[i].text + " a<SEP>b <SEP>", 0, false, glosses()[i + 1].text});
  const Tokenizer tokenizer = Tokenizer::train(pairs, 300, "");
  REQUIRE(tokenizer.separator().has_value());
  const std::int32_t separator = *tokenizer.separator();
  CHECK(tokenizer.piece(separator) == "<SEP>");
  CHECK(std::ranges::count(tokenizer.encode("a <SEP> b"), separator) == 0);
  CHECK(tokenizer.decode(tokenizer.encode("a <sep> b")) == tokenizer.decode(tokenizer.encode("a <SEP> b")));
  CHECK_FALSE(small().separator().has_value());
  CHECK_THAT(error_of([&] { small().encode_split(pairs, 10); }), Contains("trained on single ones"));

  const auto sequence = [&](const std::string& first, const std::string& second, std::int64_t max_length) {
    const auto split =
        tokenizer.encode_split(std::vector<TextExample>{{first, 0, false, second}}, max_length);
    const auto ids = split.sequence(0);
    return std::vector<std::int32_t>(ids.begin(), ids.end());
  };
  const std::string text = "an animal that lives in water";
  const auto ids = tokenizer.encode(text);
  REQUIRE(ids.size() > 6);
  const auto expected = [&](std::size_t first, std::size_t second) {
    std::vector<std::int32_t> both(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(first));
    both.push_back(separator);
    both.insert(both.end(), ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(second));
    return both;
  };
  const std::size_t all = ids.size();
  CHECK(sequence(text, text, 100) == expected(all, all));
  CHECK(sequence(text, text, static_cast<std::int64_t>(2 * all + 1)) == expected(all, all));
  CHECK(sequence(text, text, static_cast<std::int64_t>(2 * all)) == expected(all, all - 1));
  CHECK(sequence(text, text, 6) == expected(3, 2));
  CHECK(sequence(text, text, 3) == expected(1, 1));
  CHECK(sequence(" ", " ", 5) == std::vector{tokenizer.unknown(), separator, tokenizer.unknown()});
  auto short_first = expected(0, 4);
  short_first.insert(short_first.begin(), tokenizer.unknown());
  CHECK(sequence(" ", text, 6) == short_first);
  auto short_second = expected(4, 0);
  short_second.push_back(tokenizer.unknown());
  CHECK(sequence(text, " ", 6) == short_second);
  CHECK_THAT(error_of([&] { sequence(text, text, 2); }), Contains("3 is the least"));
}

TEST_CASE("scores go along with the labels that were rounded from them", "[data]") {
  const std::vector<TextExample> texts{{"plant", 3, false, "", 2.6}, {"animal", 0, false, "", 0.25}};
  CHECK(small().encode_split(texts, 4).scores == std::vector{2.6, 0.25});
  CHECK(small().encode_split(glosses(), 4).scores.empty());
}

TEST_CASE("a tokenizer survives its own bytes, and damaged bytes are refused", "[data]") {
  const std::string bytes = small().bytes();
  const Tokenizer copy = Tokenizer::from_bytes(bytes);
  CHECK(copy.hash() == small().hash());
  CHECK(copy.hash().size() == 32);
  CHECK(copy.encode("a small plant") == small().encode("a small plant"));
  const RandomStream random{1, 2, 3};
  for (std::uint64_t run = 0; run < 200; ++run) {
    std::string damaged = bytes;
    damaged[random.below(bytes.size(), 2 * run)] ^= static_cast<char>(1 + random.below(255, 2 * run + 1));
    CHECK_THROWS_AS(Tokenizer::from_bytes(damaged), Error);
    CHECK_THROWS_AS(Tokenizer::from_bytes(bytes.substr(0, random.below(bytes.size(), run))), Error);
  }
  CHECK_THAT(error_of([&] { Tokenizer::from_bytes(bytes + "x"); }), Contains("checksum"));
}

TEST_CASE("texts with too few pieces for the vocabulary give a smaller vocabulary", "[data]") {
  const Tokenizer tokenizer = Tokenizer::train(std::vector<TextExample>{{"good", 0}, {"bad", 1}}, 16'000, "");
  CHECK(tokenizer.vocabulary() < 30);
  CHECK(tokenizer.decode(tokenizer.encode("good bad")) == "good bad");
}

TEST_CASE("training without text or with too few pieces says so", "[data]") {
  CHECK_THAT(error_of([] { Tokenizer::train({}, 100, ""); }), Contains("none of the 0 texts"));
  CHECK_THAT(error_of([] {
               Tokenizer::train(std::vector<TextExample>{{" \n", 0}}, 100, "");
             }),
             Contains("any text"));
  CHECK_THAT(error_of([] { Tokenizer::train(glosses(), 3, ""); }), Contains("vocabulary 3"));
  CHECK_THAT(error_of([] { Tokenizer::train(glosses(), 20, ""); }), Contains("larger vocabulary"));
}

TEST_CASE("a tokenizer is cached by its texts and vocabulary; a damaged cache is replaced", "[data]") {
  const TemporaryDirectory folder;
  const std::string cache = folder.path() + "/a/b";
  const std::vector<TextExample> texts(glosses().begin(), glosses().begin() + 300);
  const Tokenizer first = Tokenizer::train(texts, 200, cache);
  REQUIRE(files_in(cache).size() == 1);
  const std::string file = files_in(cache)[0];
  const auto written = std::filesystem::last_write_time(file);
  CHECK(Tokenizer::train(texts, 200, cache).bytes() == first.bytes());
  CHECK(std::filesystem::last_write_time(file) == written);

  std::filesystem::resize_file(file, 1000);
  CHECK(Tokenizer::train(texts, 200, cache).bytes() == first.bytes());
  CHECK(read_file(file, "") == first.bytes());

  CHECK(Tokenizer::train(texts, 210, cache).vocabulary() == 210);
  CHECK(files_in(cache).size() == 2);
  std::vector<TextExample> other = texts;
  other[0].text += '!';
  Tokenizer::train(other, 200, cache);
  CHECK(files_in(cache).size() == 3);
}

TEST_CASE("processes that write the cache at the same time leave one complete file", "[data][unsanitized]") {
  const TemporaryDirectory folder;
  const std::vector<TextExample> texts(glosses().begin(), glosses().begin() + 300);
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const std::string error = error_of([&] { Tokenizer::train(texts, 200, folder.path()); });
      ::_exit(error.empty() ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    CHECK(status == 0);
  }
  REQUIRE(files_in(folder.path()).size() == 1);
  CHECK(read_file(files_in(folder.path())[0], "") == Tokenizer::train(texts, 200, "").bytes());
}

TEST_CASE("a tokenizer that cannot be cached is trained all the same, with a warning", "[data]") {
  const TemporaryDirectory folder;
  const std::vector<TextExample> texts(glosses().begin(), glosses().begin() + 300);
  const Tokenizer expected = Tokenizer::train(texts, 200, "");
  std::vector<std::string> warnings;
  const auto train = [&](const std::string& cache) {
    return Tokenizer::train(texts, 200, cache, [&](const auto& warning) { warnings.push_back(warning); });
  };
  const std::string file = folder.write("file", "x"), full = folder.path() + "/full";
  CHECK(train(file + "/cache").bytes() == expected.bytes());
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0],
             Contains("not kept for later runs: " + file + "/cache: the folder cannot be made") &&
                 Contains("XDG_CACHE_HOME"));
  {
    const FileSizeLimit disk(1000);
    CHECK(train(full).bytes() == expected.bytes());
  }
  REQUIRE(warnings.size() == 2);
  CHECK_THAT(warnings[1], Contains("not kept for later runs: " + full));
  CHECK(files_in(full).empty());
  train(full);
  CHECK(warnings.size() == 2);
}

// Messages of any bytes, to the coordinator and to a site (tests/fuzz/corpus/transport has more of them).
#include <catch2/catch.hpp>

#include "core/random.h"
#include "data/file.h"
#include "tests/fuzz/transport.h"

using namespace conclave;

TEST_CASE("what the fuzzer begins with is in its corpus, and does no harm") {
  const std::string corpus = CONCLAVE_SOURCE "/tests/fuzz/corpus/transport/";
  for (const auto& [name, input] : MessageTrial::examples()) {
    CAPTURE(name);
    CHECK_NOTHROW(fuzz_transport(input));
    CHECK(read_file(corpus + name, "") == input);
  }
}

TEST_CASE("messages that change on their way end in an Error, or in an update as it should be") {
  const auto examples = MessageTrial::examples();
  const RandomStream random{.seed = 7};
  std::uint64_t drawn = 0;
  const auto below = [&](std::uint64_t bound) { return random.below(bound, drawn++); };
  for (int i = 0; i < 400; ++i) {
    std::string input = std::next(examples.begin(), static_cast<std::ptrdiff_t>(i % examples.size()))->second;
    for (std::uint64_t change = below(3) + 1; change > 0; --change)
      input[1 + below(input.size() - 1)] = static_cast<char>(below(256));
    CHECK_NOTHROW(fuzz_transport(input));
  }
}

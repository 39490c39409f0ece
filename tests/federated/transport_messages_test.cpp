// Arbitrary bytes as messages, to the coordinator and to a site (more of them: tests/fuzz/corpus/transport).
#include <catch2/catch.hpp>

#include "core/file.h"
#include "core/random.h"
#include "federated/transport/site.h"
#include "tests/data/temporary_directory.h"
#include "tests/fuzz/transport.h"

using namespace conclave;

TEST_CASE("transport: the fuzzer's examples are in its corpus and do no harm") {
  const std::string corpus = CONCLAVE_SOURCE "/tests/fuzz/corpus/transport/";
  for (const auto& [name, input] : MessageTrial::examples()) {
    CAPTURE(name);
    CHECK_NOTHROW(fuzz_transport(input));
    CHECK(read_file(corpus + name, "") == input);
  }
}

TEST_CASE("transport: a site's mistake gets a status that it does not retry") {
  const TemporaryDirectory folder;
  MessageTrial trial(folder.path());
  const auto mistakes = MessageTrial::mistakes();
  CHECK(mistakes.size() > 20);
  for (const auto& [what, input] : mistakes) {
    CAPTURE(what);
    const std::vector<int> answers = trial.run(input);
    REQUIRE_FALSE(answers.empty());
    CHECK(answers.front() == MessageTrial::kInvalidArgument);
  }
}

TEST_CASE("transport: the coordinator's problems are not reported as a site's mistake") {
  const TemporaryDirectory folder;
  MessageTrial trial(folder.path());
  CHECK(trial.run(MessageTrial::download_beyond_end()).front() == MessageTrial::kAborted);
  trial.truncate_model();
  CHECK(trial.run(MessageTrial::examples().at("download")).front() == MessageTrial::kInternal);
}

TEST_CASE("transport: a message in thousands of slices is read") {
  const std::string input = MessageTrial::examples().at("upload");
  std::string padded(1, input[0]);
  for (std::size_t at = 1; at < input.size();) {
    const std::size_t size = static_cast<std::uint8_t>(input[at]) | static_cast<std::uint8_t>(input[at + 1])
                                                                        << 8;
    // An unknown field, number 15, of 60,000 bytes. The trial cuts messages into slices of 7 bytes.
    const std::string message = input.substr(at + 2, size) + "\x7a\xe0\xd4\x03" + std::string(60'000, 'x');
    padded += static_cast<char>(message.size() & 0xFF);
    padded += static_cast<char>(message.size() >> 8);
    padded += message;
    at += 2 + size;
  }
  CHECK_NOTHROW(fuzz_transport(padded));
}

TEST_CASE("transport: changed messages end in an Error or a valid update") {
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

TEST_CASE("transport: an update of the wrong length is not read or sent") {
  const TemporaryDirectory folder;
  const std::filesystem::path at = folder.path();
  CertificateAuthority::create("test").issue(at / "kit", "north", 1);
  Kit kit = Kit::read(at / "kit", 0);
  const bool expired = GENERATE(false, true);
  if (expired) kit.info.not_after = 1;
  conclave::Site site(
      {.address = "127.0.0.1:1", .directory = at, .patience_seconds = 0.1}, kit, [] { return false; },
      [](const auto&) {});
  const std::string update = folder.write("update.f32", std::string(12, '\0'));
  SiteRound round;
  round.elements = std::int64_t{1} << 60;
  round.secure = GENERATE(false, true);
  const auto deliver = [&] { return site.deliver(round, {update, digest_of(update)}, 1, {}, {}); };
  CHECK_THROWS_WITH(
      deliver(), Catch::Contains("wants updates of 1152921504606846976 numbers") && Catch::Contains("has 3"));
  round.elements = 3;
  CHECK_THROWS_WITH(deliver(), Catch::Contains("could not be reached"));
  if (expired) CHECK_THROWS_WITH(deliver(), Catch::Contains("this site's certificate has expired"));
}

#include "federated/transcript.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/data/full_disk.h"
#include "tests/data/temporary_directory.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

// Writes a transcript of three rounds. Returns its lines, each with its line feed.
std::vector<std::string> three_rounds(const std::string& path) {
  Transcript transcript(path);
  for (int round = 1; round <= 3; ++round)
    transcript.append({{"round", round}, {"sites", {"north", "south"}}, {"epsilon", 0.5 * round}});
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line + "\n");
  REQUIRE(lines.size() == 3);
  return lines;
}

TEST_CASE("Transcript: lines are linked by hash, and a reopened file is continued") {
  TemporaryDirectory folder;
  const std::string path = folder.path() + "/audit.jsonl";
  const auto lines = three_rounds(path);
  CHECK(nlohmann::json::parse(lines[0])["previous"] == std::string(64, '0'));
  const auto third = nlohmann::json::parse(lines[2]);
  CHECK(third["number"] == 3);
  CHECK(third["entry"]["epsilon"] == 1.5);

  Transcript transcript(path);
  CHECK(transcript.lines() == 3);
  const std::string head = transcript.head();
  transcript.append({{"note", "two\nlines, and \xff no UTF-8"}});
  const auto check = verify_transcript(path, head);
  CHECK(check.holds());
  CHECK_FALSE(check.torn);
  CHECK(check.lines == 4);
  CHECK(check.head == transcript.head());
  CHECK(check.known_head_at == 3);
  CHECK_FALSE(verify_transcript(path, std::string(64, 'a')).known_head_at);
  CHECK_THROWS_WITH(verify_transcript(folder.path() + "/none"), Contains("cannot be read"));
}

TEST_CASE("Transcript: a line's hash is SHA-256 without the line feed") {
  TemporaryDirectory folder;
  const std::string path = folder.path() + "/audit.jsonl";
  Transcript(path).append(7);
  CHECK(bytes_of(path) == R"({"entry":7,"number":1,"previous":")" + std::string(64, '0') + "\"}\n");
  // computed with sha256sum
  CHECK(Transcript(path).head() == "e979239eb6574c7a191a98f3109841361168a3e5cbfd133fa190b55dd3a4c088");
}

TEST_CASE("Transcript: any changed byte is found") {
  TemporaryDirectory folder;
  const std::string path = folder.path() + "/audit.jsonl";
  const auto lines = three_rounds(path);
  const std::string whole = lines[0] + lines[1] + lines[2], head = verify_transcript(path).head;
  for (std::size_t at = 0; at < whole.size(); at += 3) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    folder.write("audit.jsonl", damaged);
    const auto check = verify_transcript(path, head);
    const std::size_t line = at < lines[0].size() ? 1 : at < lines[0].size() + lines[1].size() ? 2 : 3;
    CAPTURE(at, line, check.problem);
    CHECK_FALSE(check.known_head_at);
    if (line == 3)  // no later line can show the change, but the head can
      CHECK((!check.holds() || check.torn || check.head != head));
    else if (!check.holds())
      CHECK((check.lines + 1 == line || check.lines == line));
    else
      FAIL("not seen");
  }
}

TEST_CASE("Transcript: removed, inserted, doubled and swapped lines are found") {
  TemporaryDirectory folder;
  const std::string path = folder.path() + "/audit.jsonl";
  const auto lines = three_rounds(path);
  const auto first_bad = [&](const std::string& bytes, const std::string& problem) {
    folder.write("audit.jsonl", bytes);
    const auto check = verify_transcript(path);
    CHECK_THAT(check.problem, Contains(problem));
    CHECK_THROWS_WITH(Transcript(path),
                      Contains("line " + std::to_string(check.lines + 1)) && Contains(problem));
    CHECK(bytes_of(path) == bytes);  // unchanged, because it is evidence
    return check.lines + 1;
  };
  CHECK(first_bad(lines[0] + lines[2], "does not have the number 2") == 2);
  CHECK(first_bad(lines[1] + lines[2], "does not have the number 1") == 1);
  CHECK(first_bad(lines[0] + lines[1] + lines[1] + lines[2], "does not have the number 3") == 3);
  CHECK(first_bad(lines[0] + lines[2] + lines[1], "does not have the number 2") == 2);
  CHECK(first_bad(lines[0] + "\n" + lines[1], "is no entry") == 2);
  auto other = nlohmann::json::parse(lines[1]);
  other["entry"]["epsilon"] = 0.1;
  CHECK(first_bad(lines[0] + other.dump() + "\n" + lines[2], "does not follow line 2") == 3);
  auto first = nlohmann::json::parse(lines[0]);
  first["previous"] = std::string(64, '1');
  CHECK(first_bad(first.dump() + "\n", "is not the first") == 1);
}

TEST_CASE("Transcript: only an incomplete last line is removed at the next start") {
  TemporaryDirectory folder;
  const std::string path = folder.path() + "/audit.jsonl";
  const auto lines = three_rounds(path);
  const std::string whole = lines[0] + lines[1];
  for (std::size_t length = 1; length < lines[2].size(); length += 7) {
    folder.write("audit.jsonl", whole + lines[2].substr(0, length));
    const auto torn = verify_transcript(path);
    CHECK(torn.torn);
    CHECK(torn.holds());
    CHECK(torn.lines == 2);
    Transcript transcript(path);
    CHECK(bytes_of(path) == whole);
    transcript.append({{"round", 3}});
    CHECK(verify_transcript(path).lines == 3);
    CHECK_FALSE(verify_transcript(path).torn);
  }
  folder.write("audit.jsonl", whole + std::string(100, '\0'));  // blocks that a power cut left unwritten
  CHECK(Transcript(path).lines() == 2);
  CHECK(bytes_of(path) == whole);
}

TEST_CASE("Transcript: a full disk loses the entry but not the file") {
  TemporaryDirectory folder;
  const std::string path = folder.path() + "/audit.jsonl";
  Transcript transcript(path);
  transcript.append("before");
  const std::string problem = error_of([&] {
    const FileSizeLimit full(bytes_of(path).size() + 20);
    transcript.append("lost");
  });
  CHECK_THAT(problem, Contains("audit.jsonl"));
  CHECK(transcript.lines() == 1);
  CHECK_FALSE(verify_transcript(path).torn);
  transcript.append("after");
  const auto check = verify_transcript(path);
  CHECK(check.holds());
  CHECK(check.lines == 2);
  CHECK(check.head == transcript.head());
}

}  // namespace
}  // namespace conclave

#include "federated/transcript.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_text.h"
#include "federated/sha256.h"

namespace conclave {
namespace {

const std::string kNoHead(64, '0');

// Why `line` is not the valid line number `number` after a line with the hash `previous`; "" if it is.
std::string problem_of(const std::string& line, std::size_t number, const std::string& previous) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("entry")) return "is no entry";
  if (json.value("number", nlohmann::json()) != number)
    return fmt::format("does not have the number {}", number);
  if (json.value("previous", nlohmann::json()) != previous)
    return number == 1 ? "is not the first of a transcript"
                       : fmt::format("does not follow line {}: one of the two was changed", number - 1);
  return "";
}

}  // namespace

TranscriptCheck verify_transcript(const std::string& path, const std::string& known_head) {
  std::ifstream file(path, std::ios::binary);
  require(file.good() && std::filesystem::is_regular_file(path), "{}: cannot be read", path);
  TranscriptCheck check{.head = kNoHead};
  for (std::string line; std::getline(file, line);) {
    check.torn = file.eof();  // the line has no end
    if (check.torn) break;
    check.problem = problem_of(line, check.lines + 1, check.head);
    if (!check.problem.empty()) break;
    ++check.lines;
    check.head = sha256(line);
    check.last_line = line;
    check.bytes += line.size() + 1;
    if (check.head == known_head) check.known_head_at = check.lines;
  }
  require(!file.bad(), "{}: cannot be read", path);
  return check;
}

void RoundHistory::add(const nlohmann::json& entry) {
  if (!entry.is_object() || !entry.contains("round")) return;
  models[entry.at("round")] = entry.at("model_sha256");
  if (entry.contains("privacy")) privacy = entry.at("privacy");
}

RoundHistory round_history(const std::string& path, std::size_t lines) {
  std::ifstream file(path, std::ios::binary);
  RoundHistory history;
  std::string line;
  for (std::size_t n = 0; n < lines && std::getline(file, line); ++n)
    history.add(nlohmann::json::parse(line).at("entry"));
  return history;
}

Transcript::Transcript(const std::string& path) : file_(path, O_RDWR | O_CREAT) {
  const TranscriptCheck found = verify_transcript(path);
  require(found.holds(), "{}: line {} {}; nothing is appended to a transcript that does not hold", path,
          found.lines + 1, found.problem);
  bytes_ = found.bytes;
  lines_ = found.lines;
  head_ = found.head;
  last_line_ = found.last_line;
  if (found.torn) file_.resize(bytes_);
  file_.sync();
  const auto folder = std::filesystem::path(path).parent_path();
  FileDescriptor(folder.empty() ? "." : folder.string(), O_RDONLY | O_DIRECTORY).sync();
}

void Transcript::append(const nlohmann::json& entry) {
  const nlohmann::json json{{"number", lines_ + 1}, {"previous", head_}, {"entry", entry}};
  const std::string line = json_text(json);
  std::string head = sha256(line);
  if (file_.size() > bytes_) file_.resize(bytes_);  // left by an append that failed to remove it
  try {
    file_.write_at((line + "\n").data(), line.size() + 1, bytes_);
    file_.sync();
  } catch (const Error&) {
    try {
      file_.resize(bytes_);
    } catch (const Error&) {  // the next append tries again
    }
    throw;
  }
  bytes_ += line.size() + 1;
  ++lines_;
  head_ = std::move(head);
  last_line_ = line;
}

nlohmann::json Transcript::last() const {
  return lines_ == 0 ? nlohmann::json() : nlohmann::json::parse(last_line_).at("entry");
}

}  // namespace conclave

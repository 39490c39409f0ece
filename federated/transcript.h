// The federation's audit log: rounds, participants, hashes of models. The file is only appended to. It has
// one line per entry, and each line contains the SHA-256 of the line before it:
//
//   {"entry":{...},"number":1,"previous":"000...0"}
//   {"entry":{...},"number":2,"previous":"<SHA-256 of line 1, without the line feed>"}
//
// A line that is changed, removed or inserted changes the hashes of all lines after it, and so the last
// line's hash, head(). The file alone cannot show that lines are missing at its end, or that all of it was
// written anew. To detect this, keep a head and check later that the file still has a line with that hash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "core/durable_file.h"

namespace conclave {

/// What verify_transcript() finds.
struct TranscriptCheck {
  std::size_t lines = 0;       ///< number of valid lines, from the first on
  std::string head;            ///< SHA-256 of the last valid line, in hexadecimal; 64 zeros if there is none
  std::string last_line = {};  ///< the last valid line
  std::uint64_t bytes = 0;     ///< size of the valid lines in the file
  bool torn = false;           ///< they are followed by a line without an end, of an interrupted append
  std::string problem = {};    ///< why line `lines` + 1 is not valid; empty if there is none, or if torn
  std::optional<std::size_t> known_head_at = {};  ///< number of the line whose hash is `known_head`
  bool holds() const { return problem.empty(); }
};

/// Reads all of `path`, and looks for a line whose hash is `known_head`. Throws Error if the file cannot be
/// read.
TranscriptCheck verify_transcript(const std::string& path, const std::string& known_head = "");

/// What a federation's entries say of its rounds.
struct RoundHistory {
  std::map<std::int64_t, std::string> models = {};  ///< SHA-256 of the checkpoint after each round, by the
                                                    ///< last entry of the round
  nlohmann::json privacy = nullptr;                 ///< of the last entry that has some

  void add(const nlohmann::json& entry);
};
/// Reads the first `lines` lines of `path`, which are valid.
RoundHistory round_history(const std::string& path, std::size_t lines);

class Transcript {
 public:
  /// Continues the file at `path`, or creates it. Removes an incomplete last line, whose append() never
  /// returned. Throws Error naming the first line that is not valid; a person must look into that. Only one
  /// process at a time may use the file.
  explicit Transcript(const std::string& path);

  /// Returns when the entry is on disk. If it throws Error, nothing was appended.
  void append(const nlohmann::json& entry);

  std::size_t lines() const { return lines_; }
  const std::string& head() const { return head_; }
  /// The last entry, or null.
  nlohmann::json last() const;

 private:
  FileDescriptor file_;
  std::uint64_t bytes_ = 0;
  std::size_t lines_ = 0;
  std::string head_, last_line_;
};

}  // namespace conclave

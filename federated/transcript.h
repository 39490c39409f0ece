// The federation's audit log: rounds, participants, hashes of models. A file that only grows, a line
// for each entry, each with the SHA-256 of the line before:
//
//   {"entry":{...},"number":1,"previous":"000...0"}
//   {"entry":{...},"number":2,"previous":"<of the bytes of line 1, without its end>"}
//
// Nobody can change, take out or put in a line without changing all that follow, and so the last line's hash,
// head(). That lines are missing at the end, or that all was written anew, the file cannot tell: whoever
// wants to know keeps a head and looks for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "core/durable_file.h"

namespace conclave {

/// What a file is found to be.
struct TranscriptCheck {
  std::size_t lines = 0;       ///< that hold, from the first on
  std::string head;            ///< SHA-256 of the last of them, in hexadecimal; of none: 64 zeros
  std::string last_line = {};  ///< of those
  std::uint64_t bytes = 0;     ///< of the file, that they take
  bool torn = false;           ///< what follows is a line without an end, of an append that was cut short
  std::string problem = {};    ///< why line number `lines` + 1 does not hold; empty: it is not there, or torn
  std::optional<std::size_t> known_head_at = {};  ///< the line that has the hash that was looked for
  bool holds() const { return problem.empty(); }
};

/// Reads all of `path`; `known_head` is looked for on the way. Throws Error where it cannot be read.
TranscriptCheck verify_transcript(const std::string& path, const std::string& known_head = "");

class Transcript {
 public:
  /// Goes on with the file at `path`, or begins it. An incomplete last line, whose append never returned, is
  /// cut off. Throws Error, naming the first line that does not hold: that is for people to look at. For one
  /// process at a time.
  explicit Transcript(const std::string& path);

  /// Returns when the entry is on the disk. Throws Error, and has then appended nothing.
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

// One image or row among many that cannot be read: an error, or left out and counted, as the user says. And
// what can be read, but may not be what the user meant, to be told.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"

namespace conclave {

class BadInputs {
 public:
  explicit BadInputs(bool skip = false) : skip_(skip) {}

  /// Calls read(), which throws Error where the input is bad, before it has changed anything. That error
  /// passes on, or is counted where such inputs are skipped.
  template <class Read>
  void attempt(Read&& read) {
    try {
      std::forward<Read>(read)();
    } catch (const Error& error) {
      if (!skip_) throw;
      if (count_++ == 0) first_ = error.what();
    }
  }

  /// Changes nothing but what the user is told.
  void warn(std::string warning) { warnings_.push_back(std::move(warning)); }

  std::int64_t count() const { return count_; }
  const std::string& first() const { return first_; }  ///< what was wrong with the first
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  bool skip_;
  std::int64_t count_ = 0;
  std::string first_;
  std::vector<std::string> warnings_;
};

}  // namespace conclave

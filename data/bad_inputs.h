// One image or row among many that cannot be read: an error, or left out and counted, as the user says.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "core/error.h"

namespace conclave {

class BadInputs {
 public:
  explicit BadInputs(bool skip = false) : skip_(skip) {}

  /// Calls read(), which throws Error where the input is bad. Where such are skipped it returns false then,
  /// and the error is counted; else it passes on.
  template <class Read>
  bool read(Read&& read) {
    try {
      std::forward<Read>(read)();
      return true;
    } catch (const Error& error) {
      if (!skip_) throw;
      if (count_++ == 0) first_ = error.what();
      return false;
    }
  }

  std::int64_t count() const { return count_; }
  const std::string& first() const { return first_; }  ///< what was wrong with the first

 private:
  bool skip_;
  std::int64_t count_ = 0;
  std::string first_;
};

}  // namespace conclave

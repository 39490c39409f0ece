// Policy for a single image or row that cannot be read: either the error stops the reading, or the input is
// skipped and counted, as the user chose. Also collects warnings about input that can be read but may not be
// what the user meant.
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

  /// Calls read(), which must throw Error for a bad input before it changes anything. The error is rethrown,
  /// or, if bad inputs are skipped, counted.
  template <class Read>
  void attempt(Read&& read) {
    try {
      std::forward<Read>(read)();
    } catch (const Error& error) {
      if (!skip_) throw;
      if (count_++ == 0) first_ = error.what();
    }
  }

  /// Records a warning for the user; count() does not change.
  void warn(std::string warning) { warnings_.push_back(std::move(warning)); }

  std::int64_t count() const { return count_; }
  const std::string& first() const { return first_; }  ///< the error of the first skipped input
  /// For a message that nothing is left: why, if inputs were skipped.
  std::string all_left_out() const {
    return count_ > 0 ? "; all were left out, the first of them as " + first_ : "";
  }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  bool skip_;
  std::int64_t count_ = 0;
  std::string first_;
  std::vector<std::string> warnings_;
};

}  // namespace conclave

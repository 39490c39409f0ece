// A log for lines that sites can cause as often as they like. It has one line per site and kind in ten
// seconds.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "core/clock.h"

namespace conclave {

class RateLimitedLog {
 public:
  using Say = std::function<void(const std::string&)>;

  /// `say` must not throw.
  explicit RateLimitedLog(Say say) : say_(std::move(say)) {}

  /// Logs the line, unless there was one of this site and kind less than ten seconds ago. The next line then
  /// says how many were left out. Any thread.
  void say(const std::string& site, const std::string& kind, const std::string& text,
           Clock::time_point now = Clock::now());

 private:
  struct Last {
    Clock::time_point said;
    std::size_t left_out = 0;
  };
  Say say_;
  std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, Last> last_;  // whose names the authority signed: not many
};

}  // namespace conclave

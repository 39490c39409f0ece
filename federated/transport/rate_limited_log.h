// A log for lines that sites can cause as often as they like. In ten seconds it has at most five lines about
// a site and kind, which are different, and then one that says how many were left out.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/clock.h"

namespace conclave {

class RateLimitedLog {
 public:
  using Say = std::function<void(const std::string&)>;

  /// `say` must not throw.
  explicit RateLimitedLog(Say say) : say_(std::move(say)) {}

  /// Logs the line, except if the same line, or five other lines, were logged for this site and kind since
  /// the present span of ten seconds began. A span begins with a line after the last span is over. Any
  /// thread.
  void say(const std::string& site, const std::string& kind, const std::string& text,
           Clock::time_point now = Clock::now());
  /// Logs how many lines were left out in each ten seconds that are over. To be called now and then.
  void tell_left_out(Clock::time_point now = Clock::now());

 private:
  struct Span {
    Clock::time_point began;
    std::set<std::string> said = {};
    std::size_t left_out = 0;
  };
  using Spans = std::map<std::pair<std::string, std::string>, Span>;
  Spans::iterator end_span(Spans::iterator span, std::vector<std::string>& lines);

  Say say_;
  std::mutex mutex_;
  Spans spans_;  // by site and kind; sites have names that the authority signed: not many
};

}  // namespace conclave

#include "federated/transport/rate_limited_log.h"

#include <fmt/format.h>

#include <chrono>

namespace conclave {
namespace {

constexpr auto kBetweenLines = std::chrono::seconds(10);

}  // namespace

void RateLimitedLog::say(const std::string& site, const std::string& kind, const std::string& text,
                         Clock::time_point now) {
  std::size_t left_out = 0;
  {
    const std::scoped_lock lock(mutex_);
    const auto [found, first] = last_.try_emplace({site, kind}, Last{now});
    Last& last = found->second;
    if (!first && now - last.said < kBetweenLines) {
      ++last.left_out;
      return;
    }
    left_out = last.left_out;
    last = {now};
  }
  say_(left_out == 0 ? text : fmt::format("{} (and {} times more since the last such line)", text, left_out));
}

}  // namespace conclave

#include "federated/transport/rate_limited_log.h"

#include <fmt/format.h>

#include <chrono>

namespace conclave {
namespace {

constexpr auto kSpan = std::chrono::seconds(10);
constexpr std::size_t kMostTexts = 5;  // of one site and kind in a span

}  // namespace

void RateLimitedLog::say(const std::string& site, const std::string& kind, const std::string& text,
                         Clock::time_point now) {
  std::vector<std::string> lines;
  {
    const std::scoped_lock lock(mutex_);
    if (const auto found = spans_.find({site, kind});
        found != spans_.end() && now - found->second.began >= kSpan)
      end_span(found, lines);
    Span& span = spans_.try_emplace({site, kind}, Span{now}).first->second;
    if (!span.said.contains(text) && span.said.size() < kMostTexts)
      lines.push_back(*span.said.insert(text).first);
    else
      ++span.left_out;
  }
  for (const std::string& line : lines) say_(line);
}

void RateLimitedLog::tell_left_out(Clock::time_point now) {
  std::vector<std::string> lines;
  {
    const std::scoped_lock lock(mutex_);
    for (auto span = spans_.begin(); span != spans_.end();)
      span = now - span->second.began >= kSpan ? end_span(span, lines) : std::next(span);
  }
  for (const std::string& line : lines) say_(line);
}

RateLimitedLog::Spans::iterator RateLimitedLog::end_span(Spans::iterator span,
                                                         std::vector<std::string>& lines) {
  const auto& [site, kind] = span->first;
  if (span->second.left_out > 0)
    lines.push_back(fmt::format("{} other lines about {} ({}) were left out", span->second.left_out,
                                site.empty() ? "callers whose certificate cannot be read" : site, kind));
  return spans_.erase(span);
}

}  // namespace conclave

#include "recipes/service/rate_limit.h"

#include <algorithm>

namespace conclave::service {

double RateLimit::tokens(const Bucket& bucket, Clock::time_point now) const {
  return std::min(burst_, bucket.tokens + rate_ * std::chrono::duration<double>(now - bucket.filled).count());
}

double RateLimit::wait(const std::string& address, Clock::time_point now) {
  if (rate_ <= 0) return 0;
  const std::lock_guard lock(mutex_);
  if (buckets_.size() >= tidy_at_) {  // a full bucket behaves as a missing one
    std::erase_if(buckets_, [&](const auto& entry) { return tokens(entry.second, now) >= burst_; });
    tidy_at_ = std::max<std::size_t>(1024, 2 * buckets_.size());
  }
  Bucket& bucket = buckets_.try_emplace(address, Bucket{burst_, now}).first->second;
  bucket = {tokens(bucket, now), now};
  if (bucket.tokens < 1) return (1 - bucket.tokens) / rate_;
  bucket.tokens -= 1;
  return 0;
}

}  // namespace conclave::service

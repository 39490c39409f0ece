// Rate limit by token buckets: each address has a bucket, which fills at a constant rate; each request takes
// a token.
#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <unordered_map>

#include "core/clock.h"

namespace conclave::service {

class RateLimit {
 public:
  /// `rate`: requests per second and address; 0: no limit. `burst`: requests that may come at once.
  RateLimit(double rate, double burst) : rate_(rate), burst_(burst) {}

  /// Thread-safe. Returns 0 and takes a token where the request may proceed; else the seconds until one may.
  double wait(const std::string& address, Clock::time_point now = Clock::now());

 private:
  struct Bucket {
    double tokens;
    Clock::time_point filled;
  };
  double tokens(const Bucket& bucket, Clock::time_point now) const;

  double rate_, burst_;
  std::mutex mutex_;
  std::unordered_map<std::string, Bucket> buckets_;  // an address without a bucket has a full one
  std::size_t tidy_at_ = 1024;
};

}  // namespace conclave::service

// How often an address may ask: a bucket for each, into which tokens drop at an even rate, and of which every
// request takes one.
#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <unordered_map>

#include "core/clock.h"

namespace conclave::service {

class RateLimit {
 public:
  /// Requests per second and address, and how many may come at once; a rate of 0: as many as they like.
  RateLimit(double rate, double burst) : rate_(rate), burst_(burst) {}

  /// From any thread. 0 where the request may go on; else the seconds until one may.
  double wait(const std::string& address, Clock::time_point now = Clock::now());

 private:
  struct Bucket {
    double tokens;
    Clock::time_point filled;
  };
  double tokens(const Bucket& bucket, Clock::time_point now) const;

  double rate_, burst_;
  std::mutex mutex_;
  std::unordered_map<std::string, Bucket> buckets_;  // of those that are not full
  std::size_t tidy_at_ = 1024;
};

}  // namespace conclave::service

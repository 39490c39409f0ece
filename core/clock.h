// A monotonic clock, and conversions from and to seconds as f64, the unit that the rest of the code uses.
#pragma once

#include <chrono>

namespace conclave {

using Clock = std::chrono::steady_clock;

/// Truncated to whole ticks.
inline Clock::duration seconds(double count) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count));
}

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Seconds since the clock's epoch, which is the same throughout this process.
inline double now() { return seconds_since({}); }

}  // namespace conclave

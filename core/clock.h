// The clock that only goes forward, and seconds as the rest of the code has them: f64.
#pragma once

#include <chrono>

namespace conclave {

using Clock = std::chrono::steady_clock;

/// To the nearest tick below.
inline Clock::duration seconds(double count) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count));
}

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Seconds since a moment that is the same for all of this process.
inline double now() { return seconds_since({}); }

}  // namespace conclave

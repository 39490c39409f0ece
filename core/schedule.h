// A rate as a function of the step.
#pragma once

#include <cstdint>
#include <string>

namespace conclave {

/// Linear warm-up from 0 to `peak` at step `warmup_steps`, then constant, linear or cosine (Loshchilov &
/// Hutter 2017, eq. 5) towards `final`. `final` is reached one step after `total_steps`, so that the last
/// step, even if it is the only one, does not get a rate of 0.
struct Schedule {
  enum class Kind : std::uint8_t { constant, linear, cosine };
  Kind kind = Kind::cosine;
  double peak = 1e-3;
  double final = 0;
  std::int64_t warmup_steps = 0;
  std::int64_t total_steps = 1;

  double at(std::int64_t step) const;  ///< learning rate of step number `step`, from 1
};

/// Throws Error on a name other than constant, linear, cosine.
Schedule::Kind schedule_from(const std::string& name);

}  // namespace conclave

// How a rate goes from step to step.
#pragma once

#include <cstdint>
#include <string>

namespace conclave {

/// Linear warm-up from 0 to `peak` at step `warmup_steps`, then constant, linear or cosine (Loshchilov &
/// Hutter 2017, eq. 5) towards `final`, which a step after `total_steps` would have: no step learns nothing
/// for its place alone, not even an only one.
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

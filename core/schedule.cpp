#include "core/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace conclave {

double Schedule::at(std::int64_t step) const {
  if (step < warmup_steps) return peak * static_cast<double>(step) / static_cast<double>(warmup_steps);
  if (kind == Kind::constant) return peak;
  const std::int64_t first = std::max<std::int64_t>(warmup_steps, 1);  // the step with the peak rate
  const auto length = static_cast<double>(std::max<std::int64_t>(total_steps - first + 1, 1));
  const double progress = std::clamp(static_cast<double>(step - first) / length, 0.0, 1.0);
  const double left =
      kind == Kind::linear ? 1.0 - progress : 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  return final + (peak - final) * left;
}

Schedule::Kind schedule_from(const std::string& name) {
  if (name == "constant") return Schedule::Kind::constant;
  if (name == "linear") return Schedule::Kind::linear;
  if (name == "cosine") return Schedule::Kind::cosine;
  fail("no schedule is named '{}'; there are constant, linear, cosine", name);
}

}  // namespace conclave

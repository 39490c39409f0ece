#include "federated/privacy/pld.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "federated/privacy/loss_distribution.h"
#include "federated/privacy/rdp.h"

namespace conclave {
namespace {

// What to discretize for: where Renyi's bound, which is near, says that the answer is.
struct Plan {
  double tilt;  ///< see tilt_of()
  /// How much rounding may add to the cumulant at the tilt: that is, to the logarithm of delta.
  double tolerance;
  double delta;  ///< not above the answer
};

// Where Renyi's bound is least, and at least one over the standard deviation that the sum of losses has if it
// is normal: twice its divergence, of the lowest order, is that squared.
double tilt_of(const RdpAccountant::Bound& bound, const std::vector<PrivacyEvent>& events) {
  double divergence = 0;
  for (const PrivacyEvent& event : events)
    divergence += static_cast<double>(event.steps) *
                  sampled_gaussian_divergence(event.noise_multiplier, event.sampling_rate, 1.01);
  return std::max(bound.order - 1, 1 / std::sqrt(2 * divergence));
}

constexpr std::int64_t kMostPoints = std::int64_t{1} << 22;

// Rounding adds at most interval^2 / 4 to the variance of a step, interval^2 / 6 where losses are spread
// evenly between points, and tilt^2 / 2 times that to the cumulant.
double interval_for(const std::vector<PrivacyEvent>& events, const Plan& plan) {
  double steps = 0;
  for (const PrivacyEvent& event : events) steps += static_cast<double>(event.steps);
  return std::sqrt(12 * plan.tolerance / steps) / plan.tilt;
}

// Losses whose sum's answer is no further from the truth than rounding; coarser where memory would not do.
std::vector<LossSum> directions(const std::vector<PrivacyEvent>& events, const Plan& plan) {
  double interval = interval_for(events, plan), steps = 0;
  for (const PrivacyEvent& event : events) steps += static_cast<double>(event.steps);
  // the normal distribution's tail at z is below e^(-z^2 / 2) / 2
  const double reach = std::min(37.0, std::sqrt(2 * std::log(steps / (1e-6 * plan.delta))));
  const auto too_many = [&] {
    std::int64_t points = 0;
    for (const PrivacyEvent& event : events)
      points += loss_points(event.noise_multiplier, event.sampling_rate, interval, reach);
    return points > kMostPoints;
  };
  while (too_many()) interval *= 2;

  std::vector<RepeatedLoss> remove, add;
  bool symmetric = true;
  for (const PrivacyEvent& event : events) {
    PrivacyLosses losses =
        sampled_gaussian_losses(event.noise_multiplier, event.sampling_rate, interval, reach);
    remove.push_back({std::move(losses.remove), event.steps});
    add.push_back({std::move(losses.add), event.steps});
    symmetric = symmetric && event.sampling_rate == 1;
  }
  std::vector<LossSum> sums;
  sums.emplace_back(std::move(remove), interval);
  if (!symmetric) sums.emplace_back(std::move(add), interval);
  return sums;
}

}  // namespace

double PldAccountant::epsilon_of_events(double delta) const {
  RdpAccountant renyi;
  for (const PrivacyEvent& event : events()) renyi.compose(event);
  const RdpAccountant::Bound bound = renyi.epsilon_bound(delta);
  if (bound.value == 0 || !std::isfinite(bound.value)) return bound.value;
  const double tilt = tilt_of(bound, events());
  // a change of log(delta) is one of epsilon by 1 / tilt of it
  const Plan plan{tilt, std::clamp(1e-4 * tilt * bound.value, 1e-4, 1e-2), delta};
  double epsilon = 0;
  for (const LossSum& sum : directions(events(), plan)) {
    const LossSum::Bound most = sum.epsilon_bound(delta, tilt);
    if (most.value > epsilon) epsilon = std::max(epsilon, LossDistribution(sum, most.tilt).epsilon(delta));
  }
  return std::min(epsilon, bound.value);
}

double PldAccountant::delta_of_events(double epsilon) const {
  RdpAccountant renyi;
  for (const PrivacyEvent& event : events()) renyi.compose(event);
  const RdpAccountant::Bound bound = renyi.delta_bound(epsilon);
  const double tilt = tilt_of(bound, events());
  // Renyi's bound is some ten times the truth
  const Plan plan{tilt, 2e-4, std::max(1e-290, 1e-4 * bound.value)};
  double delta = 0;
  for (const LossSum& sum : directions(events(), plan)) {
    const LossSum::Bound most = sum.delta_bound(epsilon, tilt);
    if (most.value > delta) delta = std::max(delta, LossDistribution(sum, most.tilt).delta(epsilon));
  }
  return std::min(delta, bound.value);
}

}  // namespace conclave

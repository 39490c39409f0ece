#include "federated/privacy/pld.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "federated/privacy/loss_distribution.h"
#include "federated/privacy/rdp.h"

namespace conclave {
namespace {

constexpr std::int64_t kMostPoints = std::int64_t{1} << 21;

// Above this epsilon there is no privacy left, and Renyi's bound is within a percent. A distribution of such
// losses would be lost in rounding, and its epsilon would come out as 0.
constexpr double kMostEpsilon = 1e4;

double all_steps(const std::vector<PrivacyEvent>& events) {
  double steps = 0;
  for (const PrivacyEvent& event : events) steps += static_cast<double>(event.steps);
  return steps;
}

// The reciprocal of the standard deviation of the sum of losses, if the sum is about normal: its variance is
// then twice the divergence of the lowest order.
double narrow_tilt(const std::vector<PrivacyEvent>& events) {
  double divergence = 0;
  for (const PrivacyEvent& event : events)
    divergence += static_cast<double>(event.steps) *
                  sampled_gaussian_divergence(event.noise_multiplier, event.sampling_rate, 1.01);
  return 1 / std::sqrt(2 * divergence);
}

// The sum of losses in both directions, with an infinite part below a millionth of `delta`. Enlarges
// `interval` if memory would not suffice.
std::vector<LossSum> directions(const std::vector<PrivacyEvent>& events, double& interval, double delta) {
  // The tail of the normal distribution at z is below e^(-z^2 / 2) / 2.
  const double reach = std::min(37.0, std::sqrt(2 * std::log(all_steps(events) / (1e-6 * delta))));
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

struct Answer {
  double value;  ///< epsilon, or delta
  double slope;  ///< by how much log(delta) falls there as epsilon rises
};

// Reduces the interval until rounding has a small share in the answer. `compute` gives the answer for an
// interval, and `tolerated` says how large an error of log(delta) that answer allows. Rounding adds
// interval^2 / 6 to the variance of a step, because losses are spread evenly between points, and slope^2 / 2
// times that to log(delta).
template <class Compute, class Tolerated>
double refined(double steps, Answer guess, const Compute& compute, const Tolerated& tolerated) {
  const auto interval_for = [&](const Answer& answer) {
    return std::sqrt(12 * tolerated(answer) / steps) / answer.slope;
  };
  double interval = interval_for(guess), least = guess.value;
  for (int pass = 0; pass < 5; ++pass) {
    const double wanted = interval;
    const Answer answer = compute(interval);
    least = std::min(least, answer.value);  // each answer is an upper bound
    if (interval > wanted || answer.value == 0 || !(answer.slope > 0)) break;
    const double next = interval_for(answer);
    if (next > 0.7 * interval) break;
    interval = next;
  }
  return least;
}

}  // namespace

double PldAccountant::epsilon_of_events(double delta) const {
  RdpAccountant renyi;
  for (const PrivacyEvent& event : events()) renyi.compose(event);
  const RdpAccountant::Bound bound = renyi.epsilon_bound(delta);
  if (bound.value == 0 || !(bound.value <= kMostEpsilon)) return bound.value;
  const double tilt = std::max(bound.order - 1, narrow_tilt(events()));
  const auto compute = [&](double& interval) {
    Answer answer{0, tilt};
    for (const LossSum& sum : directions(events(), interval, delta)) {
      const LossSum::Bound most = sum.epsilon_bound(delta, tilt);
      if (most.value <= answer.value) continue;
      const LossDistribution all(sum, sum.moderate_tilt(most.value, std::log(delta), most.tilt));
      if (const double epsilon = all.epsilon(delta); epsilon > answer.value)
        answer = {epsilon, all.slope(epsilon)};
    }
    return answer;
  };
  const auto tolerated = [](const Answer& answer) {
    return std::min(1e-2, answer.slope * std::max(1e-4 * answer.value, 1e-7));
  };
  return refined(all_steps(events()), {bound.value, tilt}, compute, tolerated);
}

double PldAccountant::delta_of_events(double epsilon) const {
  RdpAccountant renyi;
  for (const PrivacyEvent& event : events()) renyi.compose(event);
  const RdpAccountant::Bound bound = renyi.delta_bound(epsilon);
  if (!(renyi.epsilon_bound(1e-5).value <= kMostEpsilon)) return bound.value;
  const double tilt = std::max(bound.order - 1, narrow_tilt(events()));
  // Renyi's bound is about ten times the true value.
  const double least = std::max(1e-290, 1e-4 * bound.value);
  const auto compute = [&](double& interval) {
    Answer answer{0, tilt};
    for (const LossSum& sum : directions(events(), interval, least)) {
      const LossSum::Bound most = sum.delta_bound(epsilon, tilt);
      if (most.value <= answer.value) continue;
      const LossDistribution all(sum, sum.moderate_tilt(epsilon, std::log(most.value), most.tilt));
      if (const double delta = all.delta(epsilon); delta > answer.value) answer = {delta, all.slope(epsilon)};
    }
    return answer;
  };
  return refined(all_steps(events()), {bound.value, tilt}, compute, [](const Answer&) { return 2e-4; });
}

}  // namespace conclave

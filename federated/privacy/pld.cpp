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

// Of this much privacy nothing is left, Renyi's bound is within a percent, and rounding would lose all of a
// distribution of such losses: its epsilon came out as 0.
constexpr double kMostEpsilon = 1e4;

double all_steps(const std::vector<PrivacyEvent>& events) {
  double steps = 0;
  for (const PrivacyEvent& event : events) steps += static_cast<double>(event.steps);
  return steps;
}

// One over the standard deviation that the sum of losses has, if it is about normal: twice its divergence, of
// the lowest order, is that squared.
double narrow_tilt(const std::vector<PrivacyEvent>& events) {
  double divergence = 0;
  for (const PrivacyEvent& event : events)
    divergence += static_cast<double>(event.steps) *
                  sampled_gaussian_divergence(event.noise_multiplier, event.sampling_rate, 1.01);
  return 1 / std::sqrt(2 * divergence);
}

// The losses' sum in both directions, whose infinite part is below a millionth of `delta`; with larger
// intervals where memory would not do.
std::vector<LossSum> directions(const std::vector<PrivacyEvent>& events, double& interval, double delta) {
  // the normal distribution's tail at z is below e^(-z^2 / 2) / 2
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

// Finer and finer intervals, until rounding's share of the answer is small: `compute` makes an answer of an
// interval, and `tolerated` says of an answer how much log(delta) may be off. Rounding adds interval^2 / 6 to
// the variance of a step, where losses are spread evenly between points, and slope^2 / 2 times that to
// log(delta).
template <class Compute, class Tolerated>
double refined(double steps, Answer guess, const Compute& compute, const Tolerated& tolerated) {
  const auto interval_for = [&](const Answer& answer) {
    return std::sqrt(12 * tolerated(answer) / steps) / answer.slope;
  };
  double interval = interval_for(guess), least = guess.value;
  for (int pass = 0; pass < 5; ++pass) {
    const double wanted = interval;
    const Answer answer = compute(interval);
    least = std::min(least, answer.value);  // all are bounds
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
  // Renyi's bound is some ten times the truth
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

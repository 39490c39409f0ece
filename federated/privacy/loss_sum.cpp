#include "federated/privacy/loss_sum.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

namespace conclave {
namespace {

using Values = Eigen::ArrayXd;

// Minimum of a function of the tilt that falls and then rises, by golden-section search over log(tilt).
template <class Function>
LossSum::Bound least(const Function& function, double guess) {
  constexpr double kSearched = 3.9;  // log(50)
  const double golden = (std::sqrt(5.0) - 1) / 2;
  double low = std::log(guess) - kSearched, high = std::log(guess) + kSearched;
  double a = high - golden * (high - low), b = low + golden * (high - low);
  double at_a = function(std::exp(a)), at_b = function(std::exp(b));
  while (high - low > 0.05) {  // near the minimum the function is flat
    if (at_a < at_b) {
      high = b, b = a, at_b = at_a;
      a = high - golden * (high - low);
      at_a = function(std::exp(a));
    } else {
      low = a, a = b, at_a = at_b;
      b = low + golden * (high - low);
      at_b = function(std::exp(b));
    }
  }
  return at_a < at_b ? LossSum::Bound{at_a, std::exp(a)} : LossSum::Bound{at_b, std::exp(b)};
}

// log(probability * e^(tilt * loss)) of each point
Values exponents(const PrivacyLoss& loss, const std::vector<double>& logs, double interval, double tilt) {
  const auto points = static_cast<Eigen::Index>(logs.size());
  const double lowest = static_cast<double>(loss.lowest) * interval;
  return Eigen::Map<const Values>(logs.data(), points) +
         tilt * Values::LinSpaced(points, lowest, lowest + static_cast<double>(points - 1) * interval);
}

}  // namespace

LossSum::LossSum(std::vector<RepeatedLoss> losses, double interval)
    : losses_(std::move(losses)), interval_(interval) {
  for (const RepeatedLoss& repeated : losses_) {
    std::vector<double>& logs = logs_.emplace_back(repeated.loss.probabilities);
    for (double& value : logs) value = std::log(value);
  }
}

double LossSum::log_normalizer(std::size_t loss, double tilt) const {
  const Values values = exponents(losses_[loss].loss, logs_[loss], interval_, tilt);
  const double most = values.maxCoeff();
  return most + std::log((values - most).exp().sum());
}

std::vector<double> LossSum::tilted(std::size_t loss, double tilt) const {
  // For the elements before the first aligned one, Eigen uses another exp(). Here the first element is always
  // aligned, so an account has the same bits each time.
  const Values probabilities =
      (exponents(losses_[loss].loss, logs_[loss], interval_, tilt) - log_normalizer(loss, tilt)).exp();
  return {probabilities.begin(), probabilities.end()};
}

double LossSum::cumulant(double tilt) const {
  double sum = 0;
  for (std::size_t i = 0; i < losses_.size(); ++i)
    sum += static_cast<double>(losses_[i].steps) * log_normalizer(i, tilt);
  return sum;
}

LossSum::Moments LossSum::moments(double tilt) const {
  Moments all{0, 0};
  for (std::size_t i = 0; i < losses_.size(); ++i) {
    const auto& [loss, steps] = losses_[i];
    const std::vector<double> values = tilted(i, tilt);
    const auto points = static_cast<Eigen::Index>(values.size());
    const Eigen::Map<const Values> probabilities(values.data(), points);
    const Values indices = Values::LinSpaced(points, 0, static_cast<double>(points - 1));
    const double mean = (probabilities * indices).sum();
    const double variance = (probabilities * (indices - mean).square()).sum();
    all.mean += static_cast<double>(steps) * interval_ * (static_cast<double>(loss.lowest) + mean);
    all.variance += static_cast<double>(steps) * interval_ * interval_ * variance;
  }
  return all;
}

// delta(epsilon) <= P(S > epsilon) <= e^(cumulant(tilt) - tilt * epsilon), plus the infinite part.
LossSum::Bound LossSum::epsilon_bound(double delta, double guess) const {
  if (delta <= infinite()) return {HUGE_VAL, guess};
  const double log_delta = std::log(delta - infinite());
  return least([&](double tilt) { return (cumulant(tilt) - log_delta) / tilt; }, guess);
}

LossSum::Bound LossSum::delta_bound(double epsilon, double guess) const {
  const auto [value, tilt] = least([&](double t) { return cumulant(t) - t * epsilon; }, guess);
  return {std::exp(value) + infinite(), tilt};
}

// Under the tilt t, S is above epsilon with a probability of about delta e^(t epsilon - cumulant(t)). This
// rises with t up to the bound's tilt, where it is 1.
double LossSum::moderate_tilt(double epsilon, double log_delta, double bound_tilt) const {
  constexpr double kLogShare = -12;
  if (log_delta > kLogShare) return 0;
  double low = 0, high = bound_tilt;
  for (int i = 0; i < 10; ++i) {
    const double middle = (low + high) / 2;
    (log_delta + middle * epsilon - cumulant(middle) < kLogShare ? low : high) = middle;
  }
  return low;
}

// P(S >= s) <= e^(cumulant(t) - t s) for t > 0, with the cumulant of the tilted distribution; for t < 0 the
// same bounds P(S <= s). The first t suits the far tail of a normal distribution. It is halved as long as the
// bound improves, because heavy tails need a small t.
double LossSum::tail_bound(double tilt, double log_tail, double sign) const {
  const double here = cumulant(tilt);
  double t = sign * 12 / (std::sqrt(moments(tilt).variance) + interval_), best = sign * HUGE_VAL;
  for (int i = 0; i < 60; ++i, t /= 2) {
    const double bound = (cumulant(tilt + t) - here - log_tail) / t;
    if (sign * bound >= sign * best) break;
    best = bound;
  }
  return best;
}

double LossSum::infinite() const {
  double sum = 0;
  for (const auto& [loss, steps] : losses_) sum += static_cast<double>(steps) * loss.infinite;
  return std::min(1.0, sum);
}

}  // namespace conclave

#include "federated/privacy/rdp.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace conclave {
namespace {

// log(1 - q + q e^w), accurate also for tiny and for huge w.
double log_mixture(double rate, double w) {
  return w < 1 ? std::log1p(rate * std::expm1(w)) : w + std::log(rate + (1 - rate) * std::exp(-w));
}

// The log of e^(order l) - 1 - order (e^l - 1), which is never negative: the contribution of l to A_order -
// 1. The last term has expectation 0, and preserves digits where A_order is close to 1.
double log_excess(double l, double order) {
  if (order * l < 1) return std::log(std::max(0.0, std::expm1(order * l) - order * std::expm1(l)));
  return order * l + std::log1p((order - 1) * std::exp(-order * l) - order * std::exp((1 - order) * l));
}

constexpr double kOrderRatio = 16.0 / 15;  // ratio of successive orders' distances to 1

// Orders from 1.01 to 4e4.
const std::vector<double>& orders() {
  static const std::vector<double> all = [] {
    std::vector<double> list;
    for (double excess = 0.01; excess < 4e4; excess *= kOrderRatio) list.push_back(1 + excess);
    return list;
  }();
  return all;
}

}  // namespace

// A_order is an expectation over x of N(0, s^2). The trapezoidal rule on the whole line converges
// exponentially. The integrand's singularities have an imaginary part of pi s^2 (in x); so with steps of at
// most half a standard deviation, and at most half of s, the error is below 1e-16 of the sum.
double sampled_gaussian_divergence(double noise_multiplier, double sampling_rate, double order) {
  const double variance = noise_multiplier * noise_multiplier;
  if (sampling_rate == 1) return order / (2 * variance);
  const double step = 0.5 * std::min(1.0, noise_multiplier);  // in standard deviations
  constexpr double kReach = 13;                               // beyond it, the integrand is e^-84 of a peak
  // Peaks are where z = order * (share of the second part) / s, which is between 0 and order / s.
  const double last = order / noise_multiplier + kReach;
  if (last / step > 1e6) return HUGE_VAL;  // the noise is so small that no order of this size is of use
  const double middle = 0.5 / variance;
  double most = -HUGE_VAL, sum = 0;  // the sum is sum * e^most
  for (double z = -kReach; z <= last; z += step) {
    const double l = log_mixture(sampling_rate, z / noise_multiplier - middle);
    const double term = log_excess(l, order) - z * z / 2;
    if (term > most) {
      sum = sum * std::exp(most - term) + 1;
      most = term;
    } else if (term > most - 50) {
      sum += std::exp(term - most);
    }
  }
  const double log_excess_of_a = most + std::log(sum * step) - 0.5 * std::log(2 * M_PI);
  const double log_a = log_excess_of_a > 30 ? log_excess_of_a : std::log1p(std::exp(log_excess_of_a));
  return log_a / (order - 1);
}

namespace {

// The least bound(order, divergence of all events) over orders. Orders are tried upwards, and divergences
// rise with them, until the second value of the bound says that no larger order can be better. Then the
// search continues between the neighbours of the best order, because epsilon changes sharply where the unit's
// own peak begins to determine the divergence.
template <class Bound>
RdpAccountant::Bound least(const std::vector<PrivacyEvent>& events, const Bound& bound) {
  RdpAccountant::Bound best{HUGE_VAL, orders().front()};
  const auto at = [&](double order) {
    double divergence = 0;
    for (const PrivacyEvent& event : events)
      divergence += static_cast<double>(event.steps) *
                    sampled_gaussian_divergence(event.noise_multiplier, event.sampling_rate, order);
    const auto [value, hopeless] = bound(order, divergence);
    if (value < best.value) best = {value, order};
    return std::pair(value, hopeless);
  };
  for (const double order : orders())
    if (at(order).second) break;
  const double golden = (std::sqrt(5.0) - 1) / 2;
  double low = 1 + (best.order - 1) / kOrderRatio, high = 1 + (best.order - 1) * kOrderRatio;
  while (high - low > 1e-4 * (low - 1)) {
    const double a = high - golden * (high - low), b = low + golden * (high - low);
    if (at(a).first < at(b).first)
      high = b;
    else
      low = a;
  }
  return best;
}

}  // namespace

// Canonne, Kamath and Steinke 2020, proposition 12 (also in Balle et al. 2020, theorem 21). For tiny
// divergences also delta <= sqrt(1 - exp(-KL)) (Bretagnolle and Huber), where KL is at most the divergence.
RdpAccountant::Bound RdpAccountant::epsilon_bound(double delta) const {
  double best = HUGE_VAL;
  return least(events(), [&](double order, double divergence) {
    double epsilon = divergence + std::log1p(-1 / order) - std::log(delta * order) / (order - 1);
    if (delta * delta + std::expm1(-divergence) > 0) epsilon = 0;
    best = std::min(best, std::max(0.0, epsilon));
    // The term that is added to the divergence is above log(1 - 1 / order) - log(order) / (order - 1). That
    // is above -1.4 for orders from 2 on, and tends to 0.
    return std::pair(std::max(0.0, epsilon), divergence > best + 1.4 && order > 2);
  });
}

RdpAccountant::Bound RdpAccountant::delta_bound(double epsilon) const {
  RdpAccountant::Bound best = least(events(), [&](double order, double divergence) {
    const double basic = (order - 1) * (divergence - epsilon + std::log1p(-1 / order)) - std::log(order);
    const double small = 0.5 * std::log(-std::expm1(-divergence));
    return std::pair(std::min(basic, small), divergence > epsilon + 1.4 && order > 2);
  });
  best.value = std::min(1.0, std::exp(best.value));
  return best;
}

}  // namespace conclave

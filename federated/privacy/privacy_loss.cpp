#include "federated/privacy/privacy_loss.h"

#include <algorithm>
#include <cmath>

namespace conclave {
namespace {

// Above it, e^loss would exceed the range of f64.
constexpr double kMostLoss = 600;

struct Sampled {
  double noise, rate;

  /// log((1 - q) + q N(x; 1, s^2) / N(x; 0, s^2)), which rises with x, from log(1 - q)
  double loss(double x) const {
    const double w = (2 * x - 1) / (2 * noise * noise);
    return w < 1 ? std::log1p(rate * std::expm1(w)) : w + std::log(rate + (1 - rate) * std::exp(-w));
  }
  /// Inverse of loss(); -infinity below the least loss.
  double x(double loss) const {
    const double rest = -std::expm1(std::log1p(-rate) - loss);  // 1 - (1 - q) e^-loss
    return rest > 0 ? noise * noise * (loss - std::log(rate) + std::log(rest)) + 0.5 : -HUGE_VAL;
  }
};

struct Span {
  std::int64_t lowest, highest;  // grid points
  bool bounded;                  // no loss is below the lowest
};

Span span(const Sampled& mechanism, double interval, double reach) {
  const double least = std::floor(std::log1p(-mechanism.rate) / interval);  // -infinity at rate 1
  const double reached = std::floor(mechanism.loss(-reach * mechanism.noise) / interval);
  const double most = std::min(kMostLoss, mechanism.loss(1 + reach * mechanism.noise));
  const double lowest = std::max({least, reached, std::floor(-kMostLoss / interval)});
  return {static_cast<std::int64_t>(lowest), static_cast<std::int64_t>(std::ceil(most / interval)),
          lowest == least};
}

// The smaller of the normal distribution's two parts beyond z.
double tail(double z) { return 0.5 * std::erfc(std::fabs(z) * M_SQRT1_2); }

double below(double z, double tail_z) { return z < 0 ? tail_z : 1 - tail_z; }

// The probability between a and b, from their tails.
double between(double a, double tail_a, double b, double tail_b) {
  if (a < 0 && b > 0) return 1 - tail_a - tail_b;
  return std::fabs(tail_a - tail_b);
}

}  // namespace

std::int64_t loss_points(double noise_multiplier, double sampling_rate, double interval, double reach) {
  const Span grid = span({noise_multiplier, sampling_rate}, interval, reach);
  return grid.highest - grid.lowest + 1;
}

PrivacyLosses sampled_gaussian_losses(double noise_multiplier, double sampling_rate, double interval,
                                      double reach) {
  const double q = sampling_rate;
  const Sampled mechanism{noise_multiplier, q};
  const auto [lowest, highest, bounded] = span(mechanism, interval, reach);
  const auto points = static_cast<std::size_t>(highest - lowest + 1);
  PrivacyLosses losses;
  losses.remove = {lowest, std::vector<double>(points), 0};
  losses.add = {-highest, std::vector<double>(points), 0};

  // For N(0, s^2) and N(1, s^2): the position of the last point in each, and the tail beyond it.
  double z0 = -HUGE_VAL, z1 = -HUGE_VAL, tail0 = 0, tail1 = 0, ratio = 0;
  const double share = -1 / std::expm1(-interval);
  for (std::size_t i = 0; i < points; ++i) {
    const double loss = static_cast<double>(lowest + static_cast<std::int64_t>(i)) * interval;
    const double x = bounded && i == 0 ? -HUGE_VAL : mechanism.x(loss);
    const double next_z0 = x / noise_multiplier, next_z1 = (x - 1) / noise_multiplier;
    const double next_tail0 = tail(next_z0), next_tail1 = tail(next_z1);
    const double next_ratio = std::expm1(loss) + q;  // q times the ratio of the two densities at the point
    if (i > 0) {
      const double without = between(z0, tail0, next_z0, next_tail0);
      const double sampled = q * between(z1, tail1, next_z1, next_tail1);
      const double with = (1 - q) * without + sampled;
      const double up = std::clamp(share * (sampled - ratio * without), 0.0, with);
      losses.remove.probabilities[i] += up;
      losses.remove.probabilities[i - 1] += with - up;
      // In the other direction the loss is the negative, so the lower point here is the upper one there.
      const double down =
          std::clamp(share * std::exp(-loss) * (next_ratio * without - sampled), 0.0, without);
      losses.add.probabilities[points - i] += down;
      losses.add.probabilities[points - i - 1] += without - down;
    } else {
      losses.add.infinite = below(next_z0, next_tail0);
      losses.remove.probabilities[0] = (1 - q) * losses.add.infinite + q * below(next_z1, next_tail1);
    }
    z0 = next_z0, z1 = next_z1, tail0 = next_tail0, tail1 = next_tail1, ratio = next_ratio;
  }
  losses.add.probabilities[0] += below(-z0, tail0);
  losses.remove.infinite = (1 - q) * below(-z0, tail0) + q * below(-z1, tail1);
  return losses;
}

}  // namespace conclave

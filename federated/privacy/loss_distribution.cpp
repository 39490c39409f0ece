#include "federated/privacy/loss_distribution.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <unsupported/Eigen/FFT>

namespace conclave {
namespace {

// Logarithm of the probability that is left out at either end of the tilted distribution. The upper end's is
// added to delta, as infinite losses.
constexpr double kLogTail = -28;

struct Window {
  std::int64_t lowest, highest;  // grid points
};

// The lower end may be cut: the cyclic transform moves losses below it to higher values.
Window window(const LossSum& sum, double tilt) {
  constexpr double kMostPoints = 1 << 22;
  const double highest = std::ceil(sum.upper(tilt, kLogTail) / sum.interval());
  const double lowest =
      std::max(std::floor(sum.lower(tilt, kLogTail) / sum.interval()), highest - kMostPoints);
  return {static_cast<std::int64_t>(lowest), static_cast<std::int64_t>(highest)};
}

// A length of at least `points` for which the transform is fast.
std::int64_t transform_length(std::int64_t points) {
  std::int64_t best = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t odd : {1, 3, 5, 9, 15}) {
    std::int64_t length = 16 * odd;
    while (length < points) length *= 2;
    best = std::min(best, length);
  }
  return best;
}

// The power of each value, by repeated squaring.
void raise(std::vector<std::complex<double>>& values, std::int64_t power) {
  for (std::complex<double>& value : values) {
    std::complex<double> square = value, result = 1;
    for (std::int64_t rest = power; rest > 0; rest >>= 1) {
      if (rest & 1) result *= square;
      square *= square;
    }
    value = result;
  }
}

}  // namespace

// The transform is cyclic, so losses outside the window appear inside it. Losses below the window are raised
// by this, and their probability is negligible. Losses above it would be lowered, so they count as infinite.
LossDistribution::LossDistribution(const LossSum& sum, double tilt)
    : interval_(sum.interval()), tilt_(tilt), centre_(sum.moments(tilt).mean) {
  const auto [lowest, highest] = window(sum, tilt);
  const std::int64_t length = transform_length(highest - lowest + 1);
  lowest_ = static_cast<double>(lowest) * interval_ - centre_;
  log_scale_ = sum.cumulant(tilt) - tilt * centre_;
  // P(S >= s) <= e^(cumulant(tilt) - tilt s) * (the tilted probability of S >= s)
  const double top = lowest_ + static_cast<double>(length) * interval_;
  infinite_ = sum.infinite() + std::exp(log_scale_ - tilt * top + kLogTail);

  Eigen::FFT<double> transform;
  transform.SetFlag(Eigen::FFT<double>::HalfSpectrum);
  std::vector<double> cyclic(static_cast<std::size_t>(length));
  std::vector<std::complex<double>> spectrum, product;
  for (std::size_t i = 0; i < sum.losses().size(); ++i) {
    const auto& [loss, steps] = sum.losses()[i];
    std::fill(cyclic.begin(), cyclic.end(), 0.0);
    const std::vector<double> tilted = sum.tilted(i, tilt);
    std::int64_t at = ((loss.lowest % length) + length) % length;
    for (const double probability : tilted) {
      cyclic[static_cast<std::size_t>(at)] += probability;
      if (++at == length) at = 0;
    }
    transform.fwd(spectrum, cyclic);
    raise(spectrum, steps);
    if (product.empty())
      product.swap(spectrum);
    else
      for (std::size_t k = 0; k < product.size(); ++k) product[k] *= spectrum[k];
  }
  transform.inv(cyclic, product, length);
  tilted_.resize(cyclic.size());
  const std::int64_t first = ((lowest % length) + length) % length;
  std::rotate_copy(cyclic.begin(), cyclic.begin() + first, cyclic.end(), tilted_.begin());
  for (double& value : tilted_) value = std::max(0.0, value);
}

double LossDistribution::weight(std::size_t point) const {
  return tilted_[point] * std::exp(-tilt_ * offset(point));
}

double LossDistribution::delta(double epsilon) const {
  double sum = 0;
  for (std::size_t i = tilted_.size(); i-- > 0;) {
    const double above = centre_ + offset(i) - epsilon;
    if (above <= 0) break;
    sum += weight(i) * -std::expm1(-above);
  }
  return sum * std::exp(log_scale_) + infinite_;
}

double LossDistribution::slope(double epsilon) const {
  double sum = 0, weighted = 0;
  for (std::size_t i = tilted_.size(); i-- > 0;) {
    const double above = centre_ + offset(i) - epsilon;
    if (above <= 0) break;
    const double here = weight(i), decayed = here * std::exp(-above);
    sum += here - decayed;
    weighted += decayed;
  }
  return sum > 0 ? weighted / sum : 0;
}

// Between two points, delta is (sum of P) - e^epsilon (sum of P e^-l), where the sums are over the losses
// above.
double LossDistribution::epsilon(double delta) const {
  if (delta <= infinite_) return std::numeric_limits<double>::infinity();
  const double allowed = (delta - infinite_) * std::exp(-log_scale_);
  double sum = 0, other = 0;
  for (std::size_t i = tilted_.size(); i-- > 0;) {
    const double here = offset(i);
    if (sum - std::exp(here) * other > allowed) {  // epsilon is above this point
      return std::max(0.0, centre_ + std::log((sum - allowed) / other));
    }
    const double added = weight(i);
    sum += added;
    other += added * std::exp(-here);
  }
  // Epsilon is at the lowest point.
  return std::max(0.0, centre_ + offset(0));
}

}  // namespace conclave

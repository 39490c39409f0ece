#include "federated/secure_aggregation/fixed_point.h"

#include <cmath>
#include <type_traits>

namespace conclave::secure_aggregation {
namespace {

// Writes the rounded values to `out`; returns the sum of their squares.
double round_at_random(std::span<const float> x, FixedPoint format, RandomBits& random,
                       std::span<std::int64_t> out) {
  double squares = 0;
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    bits = i % 2 == 0 ? random.next() : bits >> 32;
    const double exact = static_cast<double>(x[i]) * format.scale, below = std::floor(exact);
    const bool up = static_cast<double>(static_cast<std::uint32_t>(bits)) < (exact - below) * 0x1p32;
    out[i] = static_cast<std::int64_t>(below) + up;
    squares += static_cast<double>(out[i]) * static_cast<double>(out[i]);
  }
  return squares;
}

void check_values(std::span<const float> x, FixedPoint format) {
  for (std::size_t i = 0; i < x.size(); ++i)
    // Written such that NaN fails. FixedPoint::choose() leaves half a level above the clip for rounding.
    require(std::abs(static_cast<double>(x[i]) * format.scale) <= static_cast<double>(format.levels),
            "secure aggregation: value {} of the update is {}; expected finite values within the clip of {}",
            i, x[i], static_cast<double>(format.levels) / format.scale);
}

}  // namespace

FixedPoint FixedPoint::choose(Ring ring, std::size_t sites, double clip, std::int64_t noise) {
  require(sites > 0 && noise >= 0, "secure aggregation: {} sites, each with noise up to {}", sites, noise);
  require(clip > 0 && std::isfinite(clip), "secure aggregation: a clip of {}; expected a positive number",
          clip);
  // At most 2^52: more levels would be finer than the steps of a double.
  const std::int64_t levels = std::min(ring.most_each(sites) - noise, std::int64_t{1} << 52);
  require(levels >= 1 << 7,
          "secure aggregation: {} sites with noise up to {} leave {} levels in words of {} bytes; take wider "
          "words",
          sites, noise, levels, ring.width);
  // Half a level is left for norms that floating-point rounding puts slightly above the clip.
  return {(static_cast<double>(levels) - 0.5) / clip, levels};
}

float toward_zero(double x) {
  const auto nearest = static_cast<float>(x);
  return std::abs(static_cast<double>(nearest)) > std::abs(x) ? std::nextafter(nearest, 0.0F) : nearest;
}

void shorten(std::span<float> values, double norm) {
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  if (const double factor = norm / std::sqrt(squares); factor < 1)
    for (float& value : values) value = toward_zero(factor * value);
}

std::vector<std::int64_t> quantize(std::span<const float> x, FixedPoint format, RandomBits& random) {
  check_values(x, format);
  std::vector<std::int64_t> result(x.size());
  round_at_random(x, format, random, result);
  return result;
}

double rounded_norm_bound(double norm, std::size_t length, double beta) {
  const double d = static_cast<double>(length);
  const double worst = norm + std::sqrt(d);
  const double likely =
      std::sqrt(norm * norm + d / 4 + std::sqrt(2 * std::log(1 / beta)) * (norm + std::sqrt(d) / 2));
  return std::min(worst, likely);
}

std::vector<std::int64_t> quantize_conditionally(std::span<const float> x, FixedPoint format, double norm,
                                                 double beta, RandomBits& random) {
  require(beta > 0 && beta < 1, "secure aggregation: beta is {}; expected between 0 and 1", beta);
  check_values(x, format);
  double squares = 0;
  for (const float value : x) {
    const double exact = static_cast<double>(value) * format.scale;
    squares += exact * exact;
  }
  require(squares <= norm * norm * (1 + 1e-6), "secure aggregation: an update of norm {}, clipped to {}",
          std::sqrt(squares) / format.scale, norm / format.scale);
  const double bound = rounded_norm_bound(norm, x.size(), beta);
  std::vector<std::int64_t> result(x.size());
  while (round_at_random(x, format, random, result) > bound * bound) {
  }
  return result;
}

std::vector<float> dequantize(const RingVector& sum, FixedPoint format) {
  std::vector<float> result(sum.size());
  sum.for_each_group([&](std::size_t first, auto words) {
    dequantize(sum, format, first, std::span(result).subspan(first, words.size()));
  });
  return result;
}

void dequantize(const RingVector& sum, FixedPoint format, std::size_t first, std::span<float> out) {
  sum.with_words([&]<class Word>(std::span<const Word> words) {
    using Signed = std::make_signed_t<Word>;
    const int unused = static_cast<int>(8 * sizeof(Word)) - sum.ring().bits();
    const double unit = 1 / format.scale;
    const Word* from = words.subspan(first, out.size()).data();
    for (std::size_t i = 0; i < out.size(); ++i)  // extends the sign
      out[i] =
          static_cast<float>(unit * static_cast<double>(static_cast<Signed>(from[i] << unused) >> unused));
  });
}

}  // namespace conclave::secure_aggregation

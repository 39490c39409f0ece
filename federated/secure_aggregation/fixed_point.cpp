#include "federated/secure_aggregation/fixed_point.h"

#include <cmath>
#include <type_traits>

namespace conclave::secure_aggregation {
namespace {

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
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    bits = i % 2 == 0 ? random.next() : bits >> 32;
    const double exact = static_cast<double>(x[i]) * format.scale, below = std::floor(exact);
    const bool up = static_cast<double>(static_cast<std::uint32_t>(bits)) < (exact - below) * 0x1p32;
    result[i] = static_cast<std::int64_t>(below) + up;
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

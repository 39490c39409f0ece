// Loops over the rows before and after products of integers, in vectors of 32 bytes or, on processors with
// AVX-512, of 64 bytes. The bits are the same either way.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/kernels/quantized.h"
#include "core/kernels/tile.h"

namespace conclave::kernels::integer_rows {

/// to[i] = the integer that represents x[i].
template <int kBytes>
void quantize(const float* x, Index count, float scale, float zero_point, QuantLevels levels,
              std::uint8_t* to) {
  const float inverse = 1 / scale;
  const QuantBounds<float> bounds(levels, zero_point);
  const auto zero = static_cast<std::int32_t>(zero_point);
#pragma omp simd
  for (Index i = 0; i < count; ++i)
    to[i] = static_cast<std::uint8_t>(bounds.integer(round_to_even(x[i] * inverse)) + zero);
}

/// The least and the greatest of x and 0; NaN if not all of x are finite.
template <int kBytes>
std::pair<float, float> range(const float* x, Index count) {
  using Wide = Vector<float, kBytes>;
  constexpr Index kWidth = kLanes<float, kBytes>;
  // Two independent chains, as a comparison must wait for the one before. `zero` becomes NaN with infinite
  // values, too. (With -fassociative-math, it would not.)
  Wide low[2] = {}, high[2] = {}, zero[2] = {};
  const auto take = [&](const Wide& values, int which) {
    low[which] = values < low[which] ? values : low[which];
    high[which] = values > high[which] ? values : high[which];
    zero[which] += values - values;
  };
  Index i = 0;
  for (; i + 2 * kWidth <= count; i += 2 * kWidth) {
    take(load<float, kBytes>(x + i), 0);
    take(load<float, kBytes>(x + i + kWidth), 1);
  }
  for (; i < count; i += kWidth) {
    Wide rest = {};
    std::memcpy(&rest, x + i, static_cast<std::size_t>(std::min(kWidth, count - i)) * sizeof(float));
    take(rest, 0);
  }
  take(low[1], 0), take(high[1], 0);
  zero[0] += zero[1];
  std::pair<float, float> found{0.0f, 0.0f};
  float nothing = 0.0f;
  for (Index lane = 0; lane < kWidth; ++lane) {
    found.first = std::min(found.first, low[0][lane]);
    found.second = std::max(found.second, high[0][lane]);
    nothing += zero[0][lane];
  }
  return {found.first + nothing, found.second + nothing};
}

/// The sums of a row's products, and per channel what converts them to real numbers: the sum of the channel's
/// integers, its scale, and its bias (or null).
struct Sums {
  const std::int32_t *sums, *weight_sums;
  const float *scales, *biases;
};
template <int kBytes>
void real(const Sums& of, float scale, std::int32_t zero_point, Index channels, float* to) {
  const auto [sums, weight_sums, scales, biases] = of;
#pragma omp simd
  for (Index c = 0; c < channels; ++c)
    to[c] = static_cast<float>(sums[c] - zero_point * weight_sums[c]) * (scale * scales[c]) +
            (biases ? biases[c] : 0.0f);
}

extern template void quantize<32>(const float*, Index, float, float, QuantLevels, std::uint8_t*);
extern template void quantize<64>(const float*, Index, float, float, QuantLevels, std::uint8_t*);
extern template std::pair<float, float> range<32>(const float*, Index);
extern template std::pair<float, float> range<64>(const float*, Index);
extern template void real<32>(const Sums&, float, std::int32_t, Index, float*);
extern template void real<64>(const Sums&, float, std::int32_t, Index, float*);

/// The loops for this processor.
struct Loops {
  decltype(&quantize<32>) quantize;
  decltype(&range<32>) range;
  decltype(&real<32>) real;
};
const Loops& loops();

}  // namespace conclave::kernels::integer_rows

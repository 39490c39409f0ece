#include "federated/strategies/tiles.h"

#include <array>

namespace conclave {

// Four updates at a time, so that the sums are loaded and stored a fourth as often.
void strategies::weighted_sum(std::span<const std::span<const float>> updates, std::span<const double> shares,
                              std::size_t begin, std::size_t count, double* sum) {
  std::fill_n(sum, count, 0.0);
  std::size_t i = 0;
  for (; i + 4 <= updates.size(); i += 4) {
    const float *a = &updates[i][begin], *b = &updates[i + 1][begin], *c = &updates[i + 2][begin],
                *d = &updates[i + 3][begin];
    const double p = shares[i], q = shares[i + 1], r = shares[i + 2], s = shares[i + 3];
#pragma omp simd
    for (std::size_t j = 0; j < count; ++j) sum[j] = (((sum[j] + p * a[j]) + q * b[j]) + r * c[j]) + s * d[j];
  }
  for (; i < updates.size(); ++i) {
    const float* a = &updates[i][begin];
    const double p = shares[i];
#pragma omp simd
    for (std::size_t j = 0; j < count; ++j) sum[j] += p * a[j];
  }
}

double squared_norm(std::span<const float> values) {
  constexpr std::size_t kLanes = 16;  // parallel sums, in the same order on every machine
  std::array<double, kLanes> sums{};
  const std::size_t whole = values.size() / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      sums[lane] += value * value;
    }
  for (std::size_t i = whole; i < values.size(); ++i) {
    const double value = values[i];
    sums[i - whole] += value * value;
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace conclave

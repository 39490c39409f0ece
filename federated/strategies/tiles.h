// Helpers of strategies. Vectors are processed in tiles that stay in the first-level cache, by all threads.
// The result for an element depends on its updates only, so it has the same bits for any blocks and threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>

namespace conclave::strategies {

inline constexpr std::size_t kTile = 2048;  ///< 16 KiB of f64 sums, and two pages of each update

/// Calls body(begin, count) for tiles that cover [0, n), in any order and on several threads.
template <class Body>
void for_tiles(std::size_t n, const Body& body) {
#pragma omp parallel for schedule(static) if (n > 16 * kTile)
  for (std::size_t begin = 0; begin < n; begin += kTile) body(begin, std::min(kTile, n - begin));
}

/// As a float; a value out of range becomes the largest or the smallest float.
inline float bounded(double x) {
  constexpr double kMost = std::numeric_limits<float>::max();
  return static_cast<float>(std::min(std::max(x, -kMost), kMost));
}

/// sum[j] = sum over i of shares[i] updates[i][begin + j], j < count, in f64 and by rising i.
void weighted_sum(std::span<const std::span<const float>> updates, std::span<const double> shares,
                  std::size_t begin, std::size_t count, double* sum);

}  // namespace conclave::strategies

namespace conclave {

/// Sum of the squares of `values`, in f64. It is finite if and only if all values are, because squares of
/// floats are far below the largest f64. The receiver of an update adds the sums of its blocks, and refuses
/// the update if the total is not finite; the total's root is the update's norm.
double squared_norm(std::span<const float> values);

}  // namespace conclave

// What strategies compute with: vectors are walked in tiles that stay in the first cache, by all threads. An
// element's result depends on its updates alone, so neither the cut into blocks nor the threads change a bit.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>

namespace conclave::strategies {

inline constexpr std::size_t kTile = 2048;  ///< 16 KiB of f64 sums, and two pages of each update

/// body(begin, count) for all of [0, n), in any order and by several threads.
template <class Body>
void for_tiles(std::size_t n, const Body& body) {
#pragma omp parallel for schedule(static) if (n > 16 * kTile)
  for (std::size_t begin = 0; begin < n; begin += kTile) body(begin, std::min(kTile, n - begin));
}

/// As a float, the largest or smallest one for what is beyond.
inline float bounded(double x) {
  constexpr double kMost = std::numeric_limits<float>::max();
  return static_cast<float>(std::min(std::max(x, -kMost), kMost));
}

/// sum[j] = sum over i of shares[i] updates[i][begin + j], j < count, in f64 and by rising i.
void weighted_sum(std::span<const std::span<const float>> updates, std::span<const double> shares,
                  std::size_t begin, std::size_t count, double* sum);

}  // namespace conclave::strategies

namespace conclave {

/// Of the squares of `values`, in f64: not finite if and only if one of the values is not, since squares of
/// floats are far from f64's end. Whoever receives an update adds its blocks' up, and refuses it where the
/// sum is not finite; its root is the update's norm.
double squared_norm(std::span<const float> values);

}  // namespace conclave

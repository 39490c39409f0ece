// Noise for integers, drawn exactly: P(X = x) is proportional to e^(-x^2 / (2 variance)), with no
// floating-point number anywhere, whose gaps would tell outputs of neighbours apart (Mironov 2012).
#pragma once

#include <cstdint>
#include <span>

#include "federated/random_source.h"

namespace conclave {

/// Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy", algorithms 1 to 3; in
/// constant memory. The discrete_gaussian.cpp argues exactness. How long a draw takes depends on what is
/// drawn: who can time single draws learns something of them. For one thread.
class DiscreteGaussian {
 public:
  /// The variance is numerator / denominator. `bits` must outlive it. Throws Error unless numerator and
  /// denominator are at least 1, the former at most 2^44 and the latter at most 2^20.
  DiscreteGaussian(RandomBits& bits, std::uint64_t numerator, std::uint64_t denominator = 1);
  ~DiscreteGaussian();
  DiscreteGaussian(const DiscreteGaussian&) = delete;
  DiscreteGaussian& operator=(const DiscreteGaussian&) = delete;

  std::int64_t next();

  /// Adds a draw of its own to each value, modulo 2^64.
  void add_to(std::span<std::uint64_t> values) {
    for (std::uint64_t& value : values) value += static_cast<std::uint64_t>(next());
  }

 private:
  __extension__ using Wide = unsigned __int128;

  std::uint64_t take(int count);                            // random bits
  bool coin(Wide numerator, Wide denominator);              // 1 with this probability
  bool exponential_coin();                                  // with probability e^-1
  bool exponential_coin(Wide numerator, Wide denominator);  // e^-(numerator / denominator)

  RandomBits& bits_;
  std::uint64_t numerator_, denominator_;
  int scale_bits_ = 0;      // Laplace's scale t is 2^scale_bits_
  Wide divisor_;            // 2 numerator denominator t^2
  std::uint64_t word_ = 0;  // bits drawn ahead
  int left_ = 0;
};

}  // namespace conclave

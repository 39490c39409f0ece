// Numbers to test with, and how far two tensors lie apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/random.h"
#include "core/tensor.h"

namespace conclave {

/// Standard normal values times `spread`; another `number`, other values.
inline Tensor random_values(const Shape& shape, std::uint32_t number, DType dtype = DType::f64,
                            double spread = 1.0) {
  const Tensor values = Tensor::empty(shape, DType::f64);
  const RandomStream stream{.seed = 11, .step = 0, .tensor = number};
  for (Index i = 0; i < values.numel(); ++i)
    values.data<double>()[i] = spread * stream.normal(static_cast<std::uint64_t>(i));
  return values.to(dtype);
}

/// What a kernel must overwrite without reading it: NaN everywhere.
inline Tensor unwritten(const Shape& shape, DType dtype) {
  const Tensor values = Tensor::empty(shape, dtype);
  values.fill(std::numeric_limits<double>::quiet_NaN());
  return values;
}

/// Largest |actual - expected| / max(1, |expected|); infinite where shapes differ or one is not a number.
inline double distance(const Tensor& actual, const Tensor& expected) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (actual.shape() != expected.shape()) return kInfinity;
  const Tensor a = actual.to(DType::f64), e = expected.to(DType::f64);
  double worst = 0;
  for (Index i = 0; i < a.numel(); ++i) {
    const double difference = std::fabs(a.data<double>()[i] - e.data<double>()[i]);
    if (!std::isfinite(difference)) return kInfinity;
    worst = std::max(worst, difference / std::max(1.0, std::fabs(e.data<double>()[i])));
  }
  return worst;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         (a.numel() == 0 || std::memcmp(a.raw(), b.raw(), a.bytes()) == 0);
}

/// How closely a kernel that computes in T follows its reference in f64.
template <class T>
inline constexpr double tolerance = std::is_same_v<T, float> ? 1e-5 : 1e-12;

/// The sum of two tensors as f64: what accumulating `b` onto `a` gives.
inline Tensor plus(const Tensor& a, const Tensor& b) {
  const Tensor sum = a.to(DType::f64), other = b.to(DType::f64);
  for (Index i = 0; i < sum.numel(); ++i) sum.data<double>()[i] += other.data<double>()[i];
  return sum;
}

}  // namespace conclave

// Numbers to test with, and how far two tensors lie apart.
#pragma once

#include <type_traits>

#include "core/tensor.h"

namespace conclave {

/// Standard normal values times `spread`; another `number`, other values.
Tensor random_values(const Shape& shape, std::uint32_t number, DType dtype = DType::f64, double spread = 1.0);

/// What a kernel must overwrite without reading it: NaN everywhere.
Tensor unwritten(const Shape& shape, DType dtype);

/// Largest |actual - expected| / max(1, |expected|); infinite where shapes differ or one is not a number.
double distance(const Tensor& actual, const Tensor& expected);

bool same_bits(const Tensor& a, const Tensor& b);

/// How closely a kernel that computes in T follows its reference in f64.
template <class T>
inline constexpr double tolerance = std::is_same_v<T, float> ? 1e-5 : 1e-12;

/// The sum of two tensors as f64: what accumulating `b` onto `a` gives.
Tensor plus(const Tensor& a, const Tensor& b);

}  // namespace conclave

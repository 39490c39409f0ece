// Random tensors for tests, and comparisons of tensors.
#pragma once

#include <type_traits>

#include "core/tensor.h"

namespace conclave {

/// Standard normal values times `spread`; each `number` gives different values.
Tensor random_values(const Shape& shape, std::uint32_t number, DType dtype = DType::f64, double spread = 1.0);

/// A tensor for a kernel's output, filled with NaN: the kernel must overwrite it without reading it.
Tensor unwritten(const Shape& shape, DType dtype);

/// Largest |actual - expected| / max(1, |expected|); infinite where shapes differ or one is not a number.
double distance(const Tensor& actual, const Tensor& expected);

bool same_bits(const Tensor& a, const Tensor& b);

/// Largest distance of a kernel that computes in T from its reference in f64.
template <class T>
inline constexpr double tolerance = std::is_same_v<T, float> ? 1e-5 : 1e-12;

/// a + b in f64, the reference for kernels that accumulate.
Tensor plus(const Tensor& a, const Tensor& b);

}  // namespace conclave

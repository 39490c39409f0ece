// exp, the Gaussian's erf and related functions, in a form that the compiler vectorizes in f32. f64 uses the
// standard library, so that gradient checks are not limited by an approximation. CUDA kernels use them, too;
// their results differ from the CPU's by rounding alone. __builtin_bit_cast, because device code cannot call
// std::bit_cast.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace conclave::kernels {

/// e^x. f32: Cephes' polynomial after reduction by ln 2, 2 ulp from -87 to 88. Arguments beyond are clamped
/// to this range: e^x is 1.6e-38 for everything below it, -inf included.
CONCLAVE_HOST_DEVICE inline float vector_exp(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);  // comparisons, so that NaN stays NaN
  const float n = std::floor(clamped * 1.44269504088896341f + 0.5f);
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float power = __builtin_bit_cast(float, (static_cast<std::int32_t>(n) + 127) << 23);
  return p * power;
}
CONCLAVE_HOST_DEVICE inline double vector_exp(double x) { return std::exp(x); }

/// What is added to a score that is to have no share of a softmax.
inline constexpr double kMaskingScore = -1e9;
/// vector_exp(x), a softmax's share before division by the sum; 0 where the score is masked. f32: so shares
/// that are not masked, however small, are greater than masked ones.
template <class T>
CONCLAVE_HOST_DEVICE inline T softmax_exp(T x) {
  return x < T(kMaskingScore / 2) ? T(0) : vector_exp(x);
}

/// Phi(x), the standard normal's distribution function, and `bell` = exp(-x^2 / 2), which its derivative
/// needs. f32: Abramowitz & Stegun 7.1.26, absolute error below 1e-7.
CONCLAVE_HOST_DEVICE inline float normal_cdf(float x, float& bell) {
  bell = vector_exp(-0.5f * x * x);
  const float a = std::fabs(x) * 0.70710678118654752f;
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  const float poly =
      t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float upper = 0.5f * poly * bell;  // 1 - Phi(|x|)
  return x < 0.0f ? upper : 1.0f - upper;
}
CONCLAVE_HOST_DEVICE inline double normal_cdf(double x, double& bell) {
  bell = std::exp(-0.5 * x * x);
  return 0.5 * std::erfc(-x * 0.7071067811865475244);
}

/// GELU (Hendrycks & Gimpel 2016), exact form x Phi(x), and its derivative Phi(x) + x phi(x).
template <class T>
CONCLAVE_HOST_DEVICE inline T gelu(T x, T& derivative) {
  T bell;
  const T cdf = normal_cdf(x, bell);
  derivative = cdf + x * bell * T(0.39894228040143267794);
  return x * cdf;
}

template <class T>
CONCLAVE_HOST_DEVICE inline T vector_sigmoid(T x) {
  return T(1) / (T(1) + vector_exp(-x));
}

/// f32: Cephes' polynomial near zero, where 1 - 2 / (e^2x + 1) would cancel; that formula elsewhere. 3 ulp.
CONCLAVE_HOST_DEVICE inline float vector_tanh(float x) {
  const float a = std::fabs(x), square = x * x;
  float p = -5.70498872745e-3f;
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const float near = p * square * x + x;
  const float far = std::copysign(1.0f - 2.0f / (vector_exp(2.0f * a) + 1.0f), x);
  return a < 0.625f ? near : far;
}
CONCLAVE_HOST_DEVICE inline double vector_tanh(double x) { return std::tanh(x); }

/// SiLU x sigmoid(x), and its derivative.
template <class T>
CONCLAVE_HOST_DEVICE inline T silu(T x, T& derivative) {
  const T sigmoid = vector_sigmoid(x);
  derivative = sigmoid * (T(1) + x * (T(1) - sigmoid));
  return x * sigmoid;
}

/// Howard et al. 2019, section 5.2: hard_sigmoid is the sigmoid by three straight lines, min(max(x / 6 + 1/2,
/// 0), 1); hard_swish is x times that.
template <class T>
CONCLAVE_HOST_DEVICE inline T hard_sigmoid(T x, T& derivative) {
  const T line = x * T(1.0 / 6) + T(0.5);
  const bool inside = x > T(-3) && x < T(3);
  derivative = inside ? T(1.0 / 6) : T(0);
  return inside ? line : x >= T(3) ? T(1) : x * T(0);  // NaN stays NaN
}
template <class T>
CONCLAVE_HOST_DEVICE inline T hard_swish(T x, T& derivative) {
  T slope;
  const T gate = hard_sigmoid(x, slope);
  derivative = gate + x * slope;
  return x * gate;
}

template <class T>
CONCLAVE_HOST_DEVICE inline T relu(T x, T& derivative) {
  derivative = x <= T(0) ? T(0) : T(1);
  return x <= T(0) ? T(0) : x;  // NaN stays NaN
}

}  // namespace conclave::kernels

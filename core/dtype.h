// Element types a Tensor can hold. Arithmetic kernels compute in f32 and f64; the others are storage
// (indices, masks, quantized weights, half-size checkpoints).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"

namespace conclave {

enum class DType : std::uint8_t { f32, f64, bf16, i64, i32, i8, u8 };

/// bfloat16 storage: the upper half of an f32, rounded to nearest even on conversion.
struct BFloat16 {
  std::uint16_t bits = 0;
  BFloat16() = default;
  explicit BFloat16(float value);
  explicit operator float() const;
};

std::size_t size_of(DType dtype);         ///< bytes per element
std::string_view name_of(DType dtype);    ///< "f32", "i64", ...
DType dtype_from(std::string_view name);  ///< inverse of name_of; throws Error on an unknown name

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<std::int8_t> {
  static constexpr DType value = DType::i8;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::u8;
};
template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

/// Calls `body(T{})` with T = float or double; any other dtype is an Error naming `operation`.
template <class Body>
decltype(auto) for_floating(DType dtype, const char* operation, Body&& body) {
  if (dtype == DType::f32) return body(float{});
  if (dtype == DType::f64) return body(double{});
  fail("{}: computes in f32 or f64, not in {}", operation, name_of(dtype));
}

}  // namespace conclave

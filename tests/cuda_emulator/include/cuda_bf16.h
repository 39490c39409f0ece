// The parts of CUDA's header of this name that kernels need: bfloat16 as storage, and arithmetic in float,
// rounded to nearest even.
#pragma once

#include <cuda_runtime.h>

struct __nv_bfloat16_raw {
  unsigned short x;
};

struct __nv_bfloat16 {
  __nv_bfloat16() = default;
  __nv_bfloat16(const __nv_bfloat16_raw& raw) : bits(raw.x) {}
  __nv_bfloat16(float value) {
    const unsigned wide = __float_as_uint(value);
    bits = static_cast<unsigned short>(isnan(value) ? 0x7fffu : (wide + 0x7fffu + (wide >> 16 & 1)) >> 16);
  }
  __nv_bfloat16(double value) : __nv_bfloat16(static_cast<float>(value)) {}
  __nv_bfloat16(int value) : __nv_bfloat16(static_cast<float>(value)) {}
  operator float() const { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
  __nv_bfloat16& operator+=(__nv_bfloat16 other) {
    return *this = static_cast<float>(*this) + static_cast<float>(other);
  }

  unsigned short bits;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
} __attribute__((aligned(4)));

using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline __nv_bfloat16 __double2bfloat16(double x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return __nv_bfloat16_raw{bits}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return {x.x, x.y}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {x.x, x.y}; }
inline float __low2float(__nv_bfloat162 x) { return x.x; }
inline float __high2float(__nv_bfloat162 x) { return x.y; }
inline __nv_bfloat16 __hadd(__nv_bfloat16 x, __nv_bfloat16 y) { return float{x} + float{y}; }
inline __nv_bfloat16 __hmul(__nv_bfloat16 x, __nv_bfloat16 y) { return float{x} * float{y}; }
inline __nv_bfloat16 __hfma(__nv_bfloat16 x, __nv_bfloat16 y, __nv_bfloat16 z) {
  return fmaf(float{x}, float{y}, float{z});
}

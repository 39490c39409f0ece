#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "core/dtype.h"

namespace conclave {
namespace {

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

TEST_CASE("bf16 keeps every value it can hold", "[dtype]") {
  for (std::uint32_t upper = 0; upper < 0x10000u; ++upper) {
    const float value = from_bits(upper << 16);
    if (std::isnan(value)) continue;
    REQUIRE(BFloat16(value).bits == upper);
    REQUIRE(std::bit_cast<std::uint32_t>(static_cast<float>(BFloat16(value))) == upper << 16);
  }
}

TEST_CASE("bf16 rounds to the nearest, ties to even", "[dtype]") {
  CHECK(BFloat16(from_bits(0x3f800000u + 0x7fffu)).bits == 0x3f80);   // just below half: down
  CHECK(BFloat16(from_bits(0x3f800000u + 0x8000u)).bits == 0x3f80);   // tie, even below: down
  CHECK(BFloat16(from_bits(0x3f800000u + 0x8001u)).bits == 0x3f81);   // just above half: up
  CHECK(BFloat16(from_bits(0x3f810000u + 0x8000u)).bits == 0x3f82);   // tie, odd below: up
  CHECK(BFloat16(from_bits(0xbf810000u + 0x8000u)).bits == 0xbf82);   // the same for negatives
  CHECK(BFloat16(std::numeric_limits<float>::max()).bits == 0x7f80);  // rounds up to infinity
  CHECK(BFloat16(from_bits(0x00008000u)).bits == 0);                  // tie of subnormals
}

TEST_CASE("bf16 keeps infinities and does not turn NaN into infinity", "[dtype]") {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(static_cast<float>(BFloat16(infinity)) == infinity);
  CHECK(static_cast<float>(BFloat16(-infinity)) == -infinity);
  // NaNs with bits only in the lower half, which rounding drops, and one that rounding up would overflow.
  for (const std::uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fc00000u, 0x7fffffffu, 0xffffffffu})
    CHECK(std::isnan(static_cast<float>(BFloat16(from_bits(bits)))));
}

TEST_CASE("an element type is found again by its name", "[dtype]") {
  for (const DType dtype :
       {DType::f32, DType::f64, DType::bf16, DType::i64, DType::i32, DType::i8, DType::u8})
    CHECK(dtype_from(name_of(dtype)) == dtype);
  CHECK(size_of(DType::bf16) == 2);
  CHECK(size_of(DType::i64) == 8);
  CHECK_THROWS_WITH(dtype_from("f16"),
                    "no element type is named 'f16'; there are f32, f64, bf16, i64, i32, i8, u8");
}

TEST_CASE("a floating-point kernel refuses integers and names the type", "[dtype]") {
  CHECK_THROWS_WITH(for_floating(DType::i32, "softmax", [](auto) {}),
                    "softmax: computes in f32 or f64, not in i32");
}

}  // namespace
}  // namespace conclave

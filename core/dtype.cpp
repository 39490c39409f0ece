#include "core/dtype.h"

#include <array>
#include <bit>

namespace conclave {
namespace {

struct Entry {
  DType dtype;
  std::string_view name;
  std::size_t size;
};
constexpr std::array<Entry, 7> kEntries{{{DType::f32, "f32", 4},
                                         {DType::f64, "f64", 8},
                                         {DType::bf16, "bf16", 2},
                                         {DType::i64, "i64", 8},
                                         {DType::i32, "i32", 4},
                                         {DType::i8, "i8", 1},
                                         {DType::u8, "u8", 1}}};

}  // namespace

BFloat16::BFloat16(float value) {
  auto raw = std::bit_cast<std::uint32_t>(value);
  const bool nan = (raw & 0x7fffffffu) > 0x7f800000u;
  raw = nan ? raw | 0x00400000u : raw + 0x7fffu + ((raw >> 16) & 1u);  // a NaN must not round to infinity
  bits = static_cast<std::uint16_t>(raw >> 16);
}

BFloat16::operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

std::size_t size_of(DType dtype) { return kEntries[static_cast<std::size_t>(dtype)].size; }

std::string_view name_of(DType dtype) { return kEntries[static_cast<std::size_t>(dtype)].name; }

DType dtype_from(std::string_view name) {
  for (const Entry& entry : kEntries)
    if (entry.name == name) return entry.dtype;
  fail("no element type is named '{}'; there are f32, f64, bf16, i64, i32, i8, u8", name);
}

}  // namespace conclave

// Shared by the emulated cuBLASLt and cuDNN: objects behind handles, the memory that an operation reads and
// writes, and rounding to TF32.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "tests/cuda_emulator/internal.h"

namespace conclave::emulator {

/// Objects by handle. No handle is used twice, so the use of a destroyed one is detected.
template <class Handle, class Object>
class Objects {
 public:
  explicit Objects(const char* kind) : kind_(kind) {}
  Handle create(Object object) {
    const std::uintptr_t number = 16 * ++count_;  // no object lies at such an address
    objects_.emplace(number, std::move(object));
    return reinterpret_cast<Handle>(number);
  }
  Object& at(Handle handle, const std::string& doing) {
    const auto found = objects_.find(address(handle));
    if (found != objects_.end()) return found->second;
    const bool was = handle && address(handle) % 16 == 0 && address(handle) / 16 <= count_;
    throw Report(doing + ": " +
                 (!handle ? "null"
                  : was   ? "a destroyed handle"
                          : "something else") +
                 " is where " + kind_ + " should be");
  }
  void destroy(Handle handle, const std::string& doing) {
    at(handle, doing);
    objects_.erase(address(handle));
  }

 private:
  std::string kind_;
  std::uintptr_t count_ = 0;
  std::map<std::uintptr_t, Object> objects_;
};

struct Nothing {};

/// Runs a call of the host under the lock and turns a Report into a status, as streams.cpp does.
template <class Status, class Body>
Status call_of_library(Body& body, Status success, Status mistaken, Status broken) {
  const std::lock_guard lock(mutex);
  try {
    body();
  } catch (const Report& mistake) {
    complain(mistake.what());
    return mistaken;
  }
  return report_so_far().empty() ? success : broken;
}

inline std::uint64_t alignment_of(const void* pointer, std::uint64_t most) {
  return std::uint64_t{1} << std::countr_zero(address(pointer) | most);
}

/// The columns of a matrix in memory; a vector is a matrix of one column.
struct Area {
  std::string name;
  std::uintptr_t begin = 0;
  std::size_t bytes = 0, step = 0, count = 0;  // size of a column, distance of columns, number of columns
  bool is_operand = true;

  static Area of(std::string name, const void* memory, std::size_t bytes) {
    return {std::move(name), address(memory), bytes, bytes, 1};
  }
  bool operator==(const Area& other) const {
    return begin == other.begin && bytes == other.bytes && step == other.step && count == other.count;
  }
  std::uintptr_t column(std::size_t i) const { return begin + i * step; }

  void expect_on_device(const std::string& doing) const {
    expect_device(reinterpret_cast<const void*>(begin), (count - 1) * step + bytes,
                  (doing + " " + name).c_str());
  }
  void see(bool writes) const {
    const bool whole = bytes == step;
    for (std::size_t i = 0; i < (whole ? 1 : count); ++i)
      see_range(reinterpret_cast<const void*>(column(i)), whole ? count * bytes : bytes, writes, is_operand);
  }
};

inline bool overlap(const Area& a, const Area& b) {
  for (std::size_t i = 0, j = 0; i < a.count && j < b.count;) {
    if (a.column(i) + a.bytes <= b.column(j))
      ++i;
    else if (b.column(j) + b.bytes <= a.column(i))
      ++j;
    else
      return true;
  }
  return false;
}

/// Rounds to the 11 significant bits of TF32, ties to even.
inline double as_tf32(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return std::isfinite(value) ? std::bit_cast<float>((bits + 0xFFFu + (bits >> 13 & 1u)) & ~0x1FFFu) : value;
}

}  // namespace conclave::emulator

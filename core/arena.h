// Memory is planned, not allocated: one Arena per lifetime (parameters, gradients, optimizer state, one
// step's activations, communication buffers). While it is planning, an arena grows into reserved address
// space and remembers its peak; sealed, it owns exactly that much, and asking for more is an Error and not a
// malloc.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "core/tensor.h"

namespace conclave {

class Arena {
 public:
  /// Reserves address space (no memory yet) for at most `limit` bytes; 0: this machine's physical memory.
  explicit Arena(std::string name, std::size_t limit = 0);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Uninitialized contiguous tensor, aligned to 64 bytes, valid until the mark before it is released.
  /// Throws Error, naming the arena and both sizes, where a sealed arena has no room left.
  Tensor empty(const Shape& shape, DType dtype = DType::f32);
  Tensor zeros(const Shape& shape, DType dtype = DType::f32);
  void* allocate(std::size_t bytes);
  /// `count` value-initialized elements, which are never destroyed; valid as long as a tensor.
  template <class T>
  std::span<T> array(Index count);
  /// A copy of `values`, likewise.
  template <class T>
  std::span<T> copy(std::span<const T> values);

  /// Everything allocated after `mark()` is given back by `release(mark)`.
  std::size_t mark() const { return used_; }
  void release(std::size_t mark) { used_ = mark; }
  void reset() { used_ = 0; }

  /// Ends planning: the peak so far, plus `slack` bytes, becomes the capacity.
  void seal(std::size_t slack = 0);

  const std::string& name() const { return name_; }
  std::size_t used() const { return used_; }
  std::size_t peak() const { return peak_; }
  std::size_t capacity() const { return sealed_ ? capacity_ : reserved_; }
  bool sealed() const { return sealed_; }

 private:
  std::string name_;
  std::byte* base_ = nullptr;
  std::size_t reserved_ = 0;
  std::size_t committed_ = 0;
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
  bool sealed_ = false;
};

template <class T>
std::span<T> Arena::array(Index count) {
  static_assert(std::is_trivially_destructible_v<T>);
  const auto size = static_cast<std::size_t>(count);
  auto* memory = static_cast<T*>(allocate(size * sizeof(T)));
  std::uninitialized_value_construct_n(memory, size);
  return {memory, size};
}

template <class T>
std::span<T> Arena::copy(std::span<const T> values) {
  const auto copied = array<T>(static_cast<Index>(values.size()));
  std::ranges::copy(values, copied.begin());
  return copied;
}

/// Gives back, at the end of a scope, what was taken from an arena in it.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  std::size_t mark_;
};

/// "12.3 MiB"
std::string format_bytes(std::size_t bytes);

}  // namespace conclave

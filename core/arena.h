// Memory is planned, not allocated: one Arena per lifetime (parameters, gradients, optimizer state, one
// step's activations, communication buffers). While it is planning, an arena grows into reserved address
// space and remembers its peak; sealed, it owns exactly that much, and asking for more is an Error and not a
// malloc. The tensors of an arena for a CUDA device lie there; what the host notes down beside them lies in
// host memory, which is planned alike. Such an arena plans in most of the device's free memory, and sealing
// it is the one cudaMalloc of what it keeps; the host memory beside it is pinned from then on, so that copies
// between the two are the device's own work.
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
  /// Bytes in use, or to be used: of tensors, and on the host beside them. An arena in host memory counts
  /// both as tensors.
  struct Bytes {
    std::size_t tensors = 0, host = 0;
  };

  /// Reserves address space (no memory yet) for at most `limit` bytes, or takes no more of a device; 0: this
  /// machine's physical memory, or what a device has free.
  explicit Arena(std::string name, std::size_t limit = 0, Device device = Device::cpu);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Uninitialized contiguous tensor on device(), aligned to 64 bytes, valid until the mark before it is
  /// released. Throws Error, naming the arena and both sizes, where a sealed arena has no room left.
  Tensor empty(const Shape& shape, DType dtype = DType::f32);
  Tensor zeros(const Shape& shape, DType dtype = DType::f32);
  /// The same in host memory, as is all that follows.
  Tensor empty_on_host(const Shape& shape, DType dtype = DType::f32);
  /// Whether `tensor` lies in this arena's host memory.
  bool holds_on_host(const Tensor& tensor) const;
  void* allocate(std::size_t bytes);
  /// `count` value-initialized elements, which are never destroyed; valid as long as a tensor.
  template <class T>
  std::span<T> array(Index count);
  /// A copy of `values`, likewise.
  template <class T>
  std::span<T> copy(std::span<const T> values);
  /// Takes so much and gives it to nobody: for plans.
  void take(const Bytes& bytes);

  /// Everything allocated after `mark()` is given back by `release(mark)`.
  Bytes mark() const { return {tensors_.used, host_.used}; }
  void release(const Bytes& mark);
  void reset() { release({}); }

  /// Ends planning: the peak so far, its `share` more and `slack` bytes become the capacity. What an arena
  /// for a device holds is lost.
  void seal(std::size_t slack = 0, double share = 0);
  /// Plans nothing: `bytes` are the capacity, the sum of room_for() over the tensors to come.
  void seal_for(std::size_t bytes);
  static std::size_t room_for(const Shape& shape, DType dtype);

  const std::string& name() const { return name_; }
  Device device() const { return device_; }
  bool sealed() const { return sealed_; }
  // Of tensors' memory.
  std::size_t used() const { return tensors_.used; }
  std::size_t peak() const { return tensors_.peak; }
  std::size_t capacity() const { return tensors_.limit; }

 private:
  friend class ArenaTrial;
  struct Region {
    std::byte* base = nullptr;
    std::size_t limit = 0;  // the most that may be used
    std::size_t reserved = 0, committed = 0;
    std::size_t used = 0, peak = 0;
  };

  Region& host_region() { return device_ == Device::cpu ? tensors_ : host_; }
  const Region& host_region() const { return device_ == Device::cpu ? tensors_ : host_; }
  std::byte* take(Region& region, std::size_t bytes);
  void commit(Region& region, std::size_t end);
  void give_back_reserved();
  void take_device_memory(std::size_t bytes);
  void take_pinned_memory(std::size_t bytes);

  std::string name_;
  Device device_;
  bool sealed_ = false;
  Region tensors_, host_;  // an arena in host memory has no use for the second
  std::shared_ptr<void> device_memory_, pinned_memory_;
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
  Arena::Bytes mark_;
};

/// The same, and what was taken in the scope is no part of the arena's peak: for finding out how much
/// something takes.
class ArenaTrial {
 public:
  explicit ArenaTrial(Arena& arena);
  ~ArenaTrial();
  ArenaTrial(const ArenaTrial&) = delete;
  ArenaTrial& operator=(const ArenaTrial&) = delete;

  /// The most that was in use at once.
  Arena::Bytes taken() const;

 private:
  Arena& arena_;
  Arena::Bytes before_, peak_;
};

/// "12.3 MiB"
std::string format_bytes(std::size_t bytes);

}  // namespace conclave

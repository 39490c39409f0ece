// Memory is planned, not allocated on demand: there is one Arena per lifetime (parameters, gradients,
// optimizer state, one step's activations, communication buffers). While it plans, an arena grows into
// reserved address space and records its peak. After seal() it owns exactly that much memory, and a larger
// request throws Error instead of calling malloc. An arena for a CUDA device has its tensors in device
// memory, and the tables that the host keeps beside them in host memory, which is planned in the same way.
// Such an arena plans inside one block that takes most of the device's free memory. Sealing replaces the
// block by a single cudaMalloc of the planned size, and pins the host memory, so that copies between the two
// run asynchronously.
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
  /// Bytes in use or planned: of tensors, and of host memory beside them. An arena on the CPU counts both as
  /// `tensors`.
  struct Bytes {
    std::size_t tensors = 0, host = 0;
  };

  /// On the CPU, reserves address space (no memory yet) for at most `limit` bytes; 0: this machine's physical
  /// memory. On a device, `limit` is the most memory that planning takes; 0: most of what the device has
  /// free.
  explicit Arena(std::string name, std::size_t limit = 0, Device device = Device::cpu);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Uninitialized contiguous tensor on device(), aligned to 64 bytes, valid until an earlier mark is
  /// released. Throws Error, naming the arena and the sizes, if a sealed arena has no room left, and
  /// OutOfMemory if the machine or the device has none.
  Tensor empty(const Shape& shape, DType dtype = DType::f32);
  Tensor zeros(const Shape& shape, DType dtype = DType::f32);
  /// Like empty(), but in host memory.
  Tensor empty_on_host(const Shape& shape, DType dtype = DType::f32);
  /// Whether `tensor` lies in this arena's host memory.
  bool holds_on_host(const Tensor& tensor) const;
  /// `bytes` uninitialized bytes of host memory, valid as long as a tensor of this arena.
  void* allocate(std::size_t bytes);
  /// `count` value-initialized elements in host memory. They are never destroyed, and valid as long as a
  /// tensor of this arena.
  template <class T>
  std::span<T> array(Index count);
  /// A copy of `values` in host memory, valid as long as a tensor of this arena.
  template <class T>
  std::span<T> copy(std::span<const T> values);
  /// Allocates `bytes` and returns no address: for plans.
  void take(const Bytes& bytes);

  /// `release(mark)` frees everything allocated after `mark()`.
  Bytes mark() const { return {tensors_.used, host_.used}; }
  void release(const Bytes& mark);
  void reset() { release({}); }

  /// Ends planning: the capacity becomes the peak so far, plus `share` times that peak, plus `slack` bytes.
  /// The contents of an arena for a device are lost.
  void seal(std::size_t slack = 0, double share = 0);
  /// Seals without a planning run: the capacity becomes `bytes`, the sum of room_for() over all future
  /// tensors.
  void seal_for(std::size_t bytes);
  static std::size_t room_for(const Shape& shape, DType dtype);

  const std::string& name() const { return name_; }
  Device device() const { return device_; }
  bool sealed() const { return sealed_; }
  // The memory of tensors.
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
  Region tensors_, host_;  // host_ is unused by an arena on the CPU
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

/// Frees, at the end of a scope, everything that was allocated from an arena in it.
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

/// An ArenaScope whose allocations do not count towards the arena's peak: measures how much memory a piece of
/// work needs.
class ArenaTrial {
 public:
  explicit ArenaTrial(Arena& arena);
  ~ArenaTrial();
  ArenaTrial(const ArenaTrial&) = delete;
  ArenaTrial& operator=(const ArenaTrial&) = delete;

  /// The most memory that was in use at once in this scope.
  Arena::Bytes taken() const;

 private:
  Arena& arena_;
  Arena::Bytes before_, peak_;
};

/// "12.3 MiB"
std::string format_bytes(std::size_t bytes);

}  // namespace conclave

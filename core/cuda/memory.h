// Memory on a CUDA device, and copies between it and host memory.
#pragma once

#include <cstddef>

#include "core/tensor.h"

namespace conclave::cuda {

/// `bytes` uninitialized bytes of device memory.
class DeviceMemory {
 public:
  /// Throws OutOfMemory, with the bytes that are free, if the device has too little.
  explicit DeviceMemory(std::size_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  void* data() const { return data_; }

 private:
  std::size_t bytes_;
  void* data_ = nullptr;
};

/// `bytes` uninitialized bytes of page-locked host memory, which the device can copy from and to
/// asynchronously.
class PinnedMemory {
 public:
  /// Throws Error if the system does not pin that much.
  explicit PinnedMemory(std::size_t bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

/// Free bytes of the device, or what limit_memory() leaves this process if that is less.
std::size_t free_memory();

/// From now on, free_memory() reports at most `bytes` beyond what this process holds now, so that it plans
/// with no more: other processes need the rest. Allocations themselves are not limited.
void limit_memory(std::size_t bytes);

/// Waits for the current stream.
void synchronize();

/// An owning tensor on the device, for tests, set-up and tools; a training step allocates from an Arena
/// instead.
Tensor empty_on_device(const Shape& shape, DType dtype = DType::f32);

/// Queues a copy on the current stream, in any direction. Throws Error unless both tensors are contiguous, of
/// one dtype and numel. A tensor in host memory must not change until the stream has been waited for. It
/// should be pinned; otherwise the host may block until the copy runs.
void copy(const Tensor& from, const Tensor& to);

/// Copies a small table from the device by way of pinned memory of this thread. Waits for the copy, and so
/// for all work queued before it.
void download(const char* operation, const void* from, std::size_t bytes, void* to);

/// Queue an assignment to a contiguous tensor on the device.
void zero(const Tensor& tensor);
void fill(const Tensor& tensor, double value);

/// Owning copies, complete on return.
Tensor to_device(const Tensor& tensor);
Tensor to_host(const Tensor& tensor);

}  // namespace conclave::cuda

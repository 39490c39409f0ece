// Memory on a CUDA device, and copies between it and the host's.
#pragma once

#include <cstddef>

#include "core/tensor.h"

namespace conclave::cuda {

/// `bytes` uninitialized bytes of device memory.
class DeviceMemory {
 public:
  /// Throws OutOfMemory, saying what is free, where there is too little.
  explicit DeviceMemory(std::size_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  void* data() const { return data_; }

 private:
  std::size_t bytes_;
  void* data_ = nullptr;
};

/// `bytes` uninitialized bytes of the host's memory that stay where they are, so that the device copies from
/// and to them on its own, while the host goes on.
class PinnedMemory {
 public:
  /// Throws Error where the system does not give so much of it.
  explicit PinnedMemory(std::size_t bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

/// Bytes that the device has free, of which this process is to take no more than limit_memory() leaves it.
std::size_t free_memory();

/// This process is to plan with `bytes` of the device's memory beyond what it holds now, as others have the
/// rest.
void limit_memory(std::size_t bytes);

/// Waits for the current stream.
void synchronize();

/// An owning tensor on the device: tests, set-up, tools; a training step takes from an Arena instead.
Tensor empty_on_device(const Shape& shape, DType dtype = DType::f32);

/// Queues the copy on the current stream, in any direction; same dtype and numel, both contiguous, else
/// Error. A side in the host's memory must stay as it is until the stream was waited for, and should be
/// pinned: else the host may have to wait until the copy's turn comes.
void copy(const Tensor& from, const Tensor& to);

/// Copies a small table from the device, and waits for it and for all that was queued before; by way of
/// pinned memory of the thread's.
void download(const char* operation, const void* from, std::size_t bytes, void* to);

/// Queues it, for contiguous tensors on the device.
void zero(const Tensor& tensor);
void fill(const Tensor& tensor, double value);

/// Owning copies, complete when these return.
Tensor to_device(const Tensor& tensor);
Tensor to_host(const Tensor& tensor);

}  // namespace conclave::cuda

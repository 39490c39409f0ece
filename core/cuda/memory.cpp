#include "core/cuda/memory.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <utility>

#include "core/arena.h"
#include "core/cuda/launch.h"
#include "core/memory.h"

namespace conclave::cuda {
namespace {

cudaMemcpyKind direction(Device from, Device to) {
  if (from == Device::cpu) return to == Device::cpu ? cudaMemcpyHostToHost : cudaMemcpyHostToDevice;
  return to == Device::cpu ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice;
}

// Bytes that this process holds, and may hold at most, on its one device.
std::atomic<std::size_t> held = 0, most = std::numeric_limits<std::size_t>::max();

}  // namespace

DeviceMemory::DeviceMemory(std::size_t bytes) : bytes_(bytes) {
  const cudaError_t code = cudaMalloc(&data_, bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // clears the error, which the next call would otherwise return
    throw OutOfMemory(fmt::format("the device has {} free, and {} are needed", format_bytes(free_memory()),
                                  format_bytes(bytes)));
  }
  check(code, "allocating device memory");
  held += bytes;
}

DeviceMemory::~DeviceMemory() {
  cudaFree(data_);
  held -= bytes_;
}

PinnedMemory::PinnedMemory(std::size_t bytes) {
  const cudaError_t code = cudaHostAlloc(&data_, bytes, cudaHostAllocDefault);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // clears the error, which the next call would otherwise return
    fail(
        "{} of this host's memory cannot be pinned for copies to and from the device: other processes hold "
        "it, or it is more than a limit of the job or container allows",
        format_bytes(bytes));
  }
  check(code, "pinning memory");
}

PinnedMemory::~PinnedMemory() { cudaFreeHost(data_); }

std::size_t free_memory() {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for the device's memory");
  return std::min(free, most - std::min<std::size_t>(most, held));
}

void limit_memory(std::size_t bytes) { most = held + bytes; }

void synchronize() { check(cudaStreamSynchronize(current_stream()), "waiting for the device"); }

void zero(const Tensor& tensor) {
  if (tensor.numel() > 0) check(cudaMemsetAsync(tensor.raw(), 0, tensor.bytes(), current_stream()), "zero");
}

Tensor empty_on_device(const Shape& shape, DType dtype) {
  auto memory = std::make_shared<DeviceMemory>(static_cast<std::size_t>(shape.numel()) * size_of(dtype));
  void* const data = memory->data();
  return Tensor::own(std::move(memory), data, shape, dtype, Device::cuda);
}

void copy(const Tensor& from, const Tensor& to) {
  require(from.dtype() == to.dtype() && from.numel() == to.numel() && from.contiguous() && to.contiguous(),
          "copy: from {} {} to {} {}; both must be contiguous, of one type and size", name_of(from.dtype()),
          from.shape(), name_of(to.dtype()), to.shape());
  if (from.numel() == 0) return;
  check(cudaMemcpyAsync(to.raw(), from.raw(), from.bytes(), direction(from.device(), to.device()),
                        current_stream()),
        "copy");
}

void download(const char* operation, const void* from, std::size_t bytes, void* to) {
  constexpr std::size_t kMost = std::size_t{16} << 10;  // per copy
  thread_local const PinnedMemory pinned(kMost);
  for (std::size_t done = 0; done < bytes; done += kMost) {
    const std::size_t next = std::min(bytes - done, kMost);
    check(cudaMemcpyAsync(pinned.data(), static_cast<const std::byte*>(from) + done, next,
                          cudaMemcpyDeviceToHost, current_stream()),
          operation);
    check(cudaStreamSynchronize(current_stream()), operation);
    std::memcpy(static_cast<std::byte*>(to) + done, pinned.data(), next);
  }
}

Tensor to_device(const Tensor& tensor) {
  const Tensor result = empty_on_device(tensor.shape(), tensor.dtype());
  copy(tensor, result);
  synchronize();
  return result;
}

Tensor to_host(const Tensor& tensor) {
  const Tensor result = Tensor::empty(tensor.shape(), tensor.dtype());
  copy(tensor, result);
  synchronize();
  return result;
}

}  // namespace conclave::cuda

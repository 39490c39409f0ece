#include "core/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/cuda/memory.h"
#include "core/memory.h"

namespace conclave {
namespace {

constexpr std::size_t kGrowth = std::size_t{8}
                                << 20;  // commits 8 MiB at a time: few mprotect calls, little waste

// Device memory that planning leaves free at least: for the scratch of kernels, and for libraries. cuBLASLt's
// workspace takes half of it.
constexpr std::size_t kForOthers = std::size_t{64} << 20;

std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::size_t physical_memory() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

std::size_t bytes_of(const std::string& arena, const Shape& shape, DType dtype) {
  std::size_t bytes = 0;
  require(!__builtin_mul_overflow(static_cast<std::size_t>(shape.numel()), size_of(dtype), &bytes),
          "arena {}: shape {} has more bytes than can be addressed", arena, shape);
  return bytes;
}

}  // namespace

Arena::Arena(std::string name, std::size_t limit, Device device) : name_(std::move(name)), device_(device) {
  require(processor_checked, "arena {}: the processor was not checked", name_);
  Region& region = host_region();
  region.reserved = round_up(limit && device == Device::cpu ? limit : physical_memory(), kGrowth);
  region.limit = region.reserved;
  void* address =
      mmap(nullptr, region.reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(address != MAP_FAILED, "arena {}: cannot reserve {} of addresses: {}", name_,
          format_bytes(region.reserved), std::strerror(errno));
  region.base = static_cast<std::byte*>(address);
  madvise(region.base, region.reserved, MADV_HUGEPAGE);  // a hint: fewer TLB misses where the kernel agrees
  if (device != Device::cpu) tensors_.limit = limit;
}

Arena::~Arena() { give_back_reserved(); }

void Arena::give_back_reserved() {
  Region& region = host_region();
  if (region.reserved > 0) munmap(region.base, region.reserved);
  region.base = nullptr;
  region.reserved = region.committed = 0;
}

// Makes host memory up to `end` accessible.
void Arena::commit(Region& region, std::size_t end) {
  if (end <= region.committed) return;
  const std::size_t grown = std::min(round_up(end, kGrowth), region.reserved);
  require(mprotect(region.base + region.committed, grown - region.committed, PROT_READ | PROT_WRITE) == 0,
          "arena {}: the system refuses {}: {}", name_, format_bytes(grown - region.committed),
          std::strerror(errno));
  region.committed = grown;
}

void Arena::take_device_memory(std::size_t bytes) {
  if constexpr (kBuiltWithCuda) {
    device_memory_.reset();
    try {
      const auto memory = std::make_shared<cuda::DeviceMemory>(bytes);
      tensors_.base = static_cast<std::byte*>(memory->data());
      device_memory_ = memory;
    } catch (const OutOfMemory& error) {
      throw OutOfMemory(fmt::format("arena {}: {}", name_, error.what()));
    }
    tensors_.limit = bytes;
  } else {
    fail("arena {}: {} on a CUDA device, for which this program was not built", name_, format_bytes(bytes));
  }
}

void Arena::take_pinned_memory(std::size_t bytes) {
  give_back_reserved();
  host_.limit = host_.committed = bytes;
  if (bytes == 0) return;
  if constexpr (kBuiltWithCuda) {
    const auto memory = std::make_shared<cuda::PinnedMemory>(bytes);
    host_.base = static_cast<std::byte*>(memory->data());
    pinned_memory_ = memory;
  }
}

std::byte* Arena::take(Region& region, std::size_t bytes) {
  const bool on_device = &region != &host_region();
  if (on_device && !device_memory_ && !sealed_) {
    std::size_t most = 0;
    if constexpr (kBuiltWithCuda) {
      const std::size_t free = cuda::free_memory();
      most = free - std::min(free, std::max(free / 8, kForOthers));
    }
    take_device_memory(std::min(most, tensors_.limit ? tensors_.limit : most));
  }
  const std::size_t begin = round_up(region.used, kAlignment);
  std::size_t end = 0;
  if (__builtin_add_overflow(begin, bytes, &end) || end > region.limit) {
    const std::string what =
        fmt::format("arena {}: {} more do not fit, {} of {} are in use; ", name_, format_bytes(bytes),
                    format_bytes(region.used), format_bytes(region.limit));
    require(!sealed_, "{}the planning run did not see a step this large", what);
    throw OutOfMemory(what + (on_device ? "the device" : "this machine") + " has no more memory");
  }
  if (!on_device) commit(region, end);
  region.used = end;
  region.peak = std::max(region.peak, region.used);
  return region.base + begin;
}

void* Arena::allocate(std::size_t bytes) { return take(host_region(), bytes); }

void Arena::take(const Bytes& bytes) {
  take(tensors_, bytes.tensors);
  if (bytes.host > 0) take(host_region(), bytes.host);
}

void Arena::release(const Bytes& mark) {
  tensors_.used = mark.tensors;
  host_.used = mark.host;
}

Tensor Arena::empty(const Shape& shape, DType dtype) {
  return Tensor::borrow(take(tensors_, bytes_of(name_, shape, dtype)), shape, dtype, device_);
}

Tensor Arena::zeros(const Shape& shape, DType dtype) {
  Tensor tensor = empty(shape, dtype);
  tensor.zero();
  return tensor;
}

Tensor Arena::empty_on_host(const Shape& shape, DType dtype) {
  return Tensor::borrow(allocate(bytes_of(name_, shape, dtype)), shape, dtype);
}

bool Arena::holds_on_host(const Tensor& tensor) const {
  const Region& region = host_region();
  const auto* const at = static_cast<const std::byte*>(tensor.raw());
  return region.base <= at && at < region.base + region.used;
}

void Arena::seal(std::size_t slack, double share) {
  const auto wanted = [&](const Region& region) {
    const auto more = static_cast<std::size_t>(share * static_cast<double>(region.peak));
    return round_up(region.peak + more + slack, kAlignment);
  };
  if (device_ == Device::cpu) {
    tensors_.limit = std::min(wanted(tensors_), tensors_.reserved);
    commit(tensors_, tensors_.limit);
  } else {
    take_device_memory(wanted(tensors_));
    take_pinned_memory(wanted(host_));
  }
  sealed_ = true;
}

void Arena::seal_for(std::size_t bytes) {
  tensors_.peak = std::max(tensors_.peak, bytes);
  seal();
}

std::size_t Arena::room_for(const Shape& shape, DType dtype) {
  return round_up(static_cast<std::size_t>(shape.numel()) * size_of(dtype), kAlignment);
}

ArenaTrial::ArenaTrial(Arena& arena)
    : arena_(arena), before_(arena.mark()), peak_{arena.tensors_.peak, arena.host_.peak} {
  arena_.tensors_.peak = before_.tensors;
  arena_.host_.peak = before_.host;
}

ArenaTrial::~ArenaTrial() {
  arena_.release(before_);
  arena_.tensors_.peak = peak_.tensors;
  arena_.host_.peak = peak_.host;
}

Arena::Bytes ArenaTrial::taken() const {
  return {arena_.tensors_.peak - before_.tensors, arena_.host_.peak - before_.host};
}

std::string format_bytes(std::size_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  const char* unit = "B";
  for (const char* larger : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = larger;
  }
  return fmt::format("{:.1f} {}", value, unit);
}

}  // namespace conclave

#include "core/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace conclave {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kGrowth = std::size_t{8}
                                << 20;  // commits 8 MiB at a time: few mprotect calls, little waste

std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::size_t physical_memory() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

Arena::Arena(std::string name, std::size_t limit)
    : name_(std::move(name)), reserved_(round_up(limit ? limit : physical_memory(), kGrowth)) {
  void* address = mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(address != MAP_FAILED, "arena {}: cannot reserve {} of addresses: {}", name_,
          format_bytes(reserved_), std::strerror(errno));
  require(processor_checked, "arena {}: the processor was not checked", name_);
  base_ = static_cast<std::byte*>(address);
  madvise(base_, reserved_, MADV_HUGEPAGE);  // a hint: fewer TLB misses where the kernel agrees
}

Arena::~Arena() { munmap(base_, reserved_); }

void* Arena::allocate(std::size_t bytes) {
  const std::size_t begin = round_up(used_, kAlignment);
  std::size_t end = 0;
  const bool fits = !__builtin_add_overflow(begin, bytes, &end) && end <= capacity();
  require(fits, "arena {}: {} more do not fit, {} of {} are in use; {}", name_, format_bytes(bytes),
          format_bytes(used_), format_bytes(capacity()),
          sealed_ ? "the planning run did not see a step this large"
                  : "this machine has no more memory: make the batch or the model smaller");
  if (end > committed_) {
    const std::size_t grown = std::min(round_up(end, kGrowth), reserved_);
    require(mprotect(base_ + committed_, grown - committed_, PROT_READ | PROT_WRITE) == 0,
            "arena {}: the system refuses {}: {}", name_, format_bytes(grown - committed_),
            std::strerror(errno));
    committed_ = grown;
  }
  used_ = end;
  peak_ = std::max(peak_, used_);
  return base_ + begin;
}

Tensor Arena::empty(const Shape& shape, DType dtype) {
  std::size_t bytes = 0;
  require(!__builtin_mul_overflow(static_cast<std::size_t>(shape.numel()), size_of(dtype), &bytes),
          "arena {}: shape {} has more bytes than can be addressed", name_, shape.to_string());
  return Tensor::borrow(allocate(bytes), shape, dtype);
}

Tensor Arena::zeros(const Shape& shape, DType dtype) {
  Tensor tensor = empty(shape, dtype);
  tensor.zero();
  return tensor;
}

void Arena::seal(std::size_t slack) {
  capacity_ = std::min(round_up(peak_ + slack, kAlignment), reserved_);
  if (capacity_ > committed_) {
    mprotect(base_ + committed_, round_up(capacity_, kGrowth) - committed_, PROT_READ | PROT_WRITE);
    committed_ = std::min(round_up(capacity_, kGrowth), reserved_);
  }
  sealed_ = true;
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

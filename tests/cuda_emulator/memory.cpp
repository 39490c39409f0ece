// Device memory lies in a reserved range of addresses. No address is used twice, so that the use of freed
// memory is detected. Every allocation has pages of its own, with guards before and behind it.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <new>

#include "tests/cuda_emulator/internal.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace conclave::emulator {
namespace {

constexpr std::size_t kPage = 4096, kGuard = 256;  // the alignment of CUDA's allocations
constexpr std::size_t kLargePage = 2 << 20;
constexpr unsigned char kGuardByte = 0xA5;
constexpr std::size_t kAddresses = std::size_t{256} << 30;

struct Arena {
  std::uintptr_t begin = 0;
  std::size_t used = 0;
  // For each page the number of its allocation, or 0.
  std::uint32_t* pages = nullptr;
};

void* reserve(std::size_t bytes, int protection) {
  void* const memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

Arena& arena() {
  static Arena& result = *new Arena{address(reserve(kAddresses, PROT_NONE)), 0,
                                    static_cast<std::uint32_t*>(reserve(
                                        kAddresses / kPage * sizeof(std::uint32_t), PROT_READ | PROT_WRITE))};
  return result;
}

// Never destroyed, because tensors in static variables free their memory late.
auto& allocations = *new std::vector<std::unique_ptr<Allocation>>;
auto& live = *new std::vector<Allocation*>;  // unordered
struct Pinned {
  std::size_t bytes = 0;
  bool live = true;
};
auto& pinned = *new std::map<std::uintptr_t, Pinned>;  // by address; freed ones, too
std::size_t pinned_capacity = std::numeric_limits<std::size_t>::max();
auto& free_shadows = *new std::multimap<std::size_t, Cell*>;  // by size
std::size_t capacity = [] {
  const char* mebibytes = std::getenv("CONCLAVE_CUDA_MEMORY");
  return mebibytes ? std::strtoull(mebibytes, nullptr, 10) << 20 : std::size_t{4} << 30;
}();
int on_device = 0;

struct CountsAtEnd {
  ~CountsAtEnd() {
    if (const char* path = std::getenv("CONCLAVE_CUDA_COUNTS"))
      std::ofstream(path, std::ios::app) << counts.allocations << ' ' << counts.pinned_allocations << ' '
                                         << counts.pageable_copies << std::endl;
  }
} counts_at_end;

void* pointer(std::uintptr_t at) { return reinterpret_cast<void*>(at); }
std::size_t pages_for(std::size_t bytes) { return (bytes + kPage - 1) / kPage; }

void protect(int protection) {
  if (arena().used > 0) mprotect(pointer(arena().begin), arena().used, protection);
}

void set_guards(const Allocation& allocation) {
  std::memset(pointer(allocation.begin - kGuard), kGuardByte, kGuard);
  std::memset(pointer(allocation.begin + allocation.bytes), kGuardByte, kGuard);
}

[[maybe_unused]] bool whole(std::uintptr_t begin) {
  const auto* const bytes = static_cast<const unsigned char*>(pointer(begin));
  return std::all_of(bytes, bytes + kGuard, [](unsigned char byte) { return byte == kGuardByte; });
}

// The pinned allocation whose pages contain `at`, or null.
const std::pair<const std::uintptr_t, Pinned>* find_pinned(std::uintptr_t at) {
  const auto next = pinned.upper_bound(at);
  if (next == pinned.begin()) return nullptr;
  const auto found = std::prev(next);
  return at - found->first < pages_for(found->second.bytes) * kPage ? &*found : nullptr;
}

// Checks the guard behind pinned memory, which is the rest of its last page.
void check_guard([[maybe_unused]] std::uintptr_t begin, [[maybe_unused]] std::size_t bytes) {
#ifndef __SANITIZE_ADDRESS__
  auto* const end = static_cast<unsigned char*>(pointer(begin + bytes));
  auto* const page_end = static_cast<unsigned char*>(pointer(begin + pages_for(bytes) * kPage));
  if (std::all_of(end, page_end, [](unsigned char byte) { return byte == kGuardByte; })) return;
  std::fill(end, page_end, kGuardByte);
  throw Report("written behind " + std::to_string(bytes) + " bytes of pinned memory");
#endif
}

struct sigaction handler_before;

void on_segmentation_fault(int number, siginfo_t* info, void* state) {
  std::string_view text;
  if (in_device_memory(address(info->si_addr)))
    text = "emulated CUDA device: the host's code touched device memory\n";
  else if (find_pinned(address(info->si_addr)))
    text = "emulated CUDA device: the host's code touched pinned memory that was given back\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
  if (handler_before.sa_flags & SA_SIGINFO) return handler_before.sa_sigaction(number, info, state);
  sigaction(SIGSEGV, &handler_before, nullptr);  // the same instruction faults again, with that handler
}

// Catch2 installs a handler of its own for each test, so every allocation installs this one again.
void watch_for_segmentation_faults() {
  struct sigaction mine {};
  mine.sa_sigaction = &on_segmentation_fault;
  mine.sa_flags = SA_SIGINFO | SA_ONSTACK;
  struct sigaction before {};
  sigaction(SIGSEGV, &mine, &before);
  if (!(before.sa_flags & SA_SIGINFO) || before.sa_sigaction != &on_segmentation_fault)
    handler_before = before;
}

void give_back(void* memory) {
  Allocation* const allocation = find_allocation(address(memory));
  if (!allocation || allocation->begin != address(memory))
    throw Report("cudaFree: this is not the beginning of device memory");
  if (!allocation->live) throw Report("cudaFree: this memory was given back before");
  allocation->live = false;
  std::iter_swap(std::ranges::find(live, allocation), std::prev(live.end()));
  live.pop_back();
  --counts.live;
  counts.live_bytes -= allocation->bytes;
  const std::uintptr_t first = allocation->begin / kPage * kPage;
  const std::size_t bytes =
      (allocation->begin + allocation->bytes + kGuard - first + kPage - 1) / kPage * kPage;
  // Returns the memory to the system. The addresses stay unused.
  madvise(pointer(first), bytes, MADV_DONTNEED);
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(memory, allocation->bytes);
#endif
  allocation->shadow = {};
  allocation->sectors = {};
}

}  // namespace

Shadow::~Shadow() {
  if (cells_) free_shadows.emplace(bytes_, cells_);
}

// Reused cells keep the accesses to their former memory. These cannot conflict with new ones: cudaFree waits
// for all work, so they precede all later work.
void Shadow::take(std::size_t memory_bytes) {
  bytes_ = std::bit_ceil((memory_bytes / 4 + 1) * sizeof(Cell));
  if (const auto unused = free_shadows.find(bytes_); unused != free_shadows.end()) {
    cells_ = unused->second;
    free_shadows.erase(unused);
  } else {
    cells_ = static_cast<Cell*>(reserve(bytes_, PROT_READ | PROT_WRITE));
  }
}

Allocation* find_allocation(std::uintptr_t at) {
  if (!in_device_memory(at)) return nullptr;
  const std::uint32_t number = arena().pages[(at - arena().begin) / kPage];
  return number == 0 ? nullptr : allocations[number - 1].get();
}

bool in_device_memory(std::uintptr_t at) { return at - arena().begin < kAddresses; }

std::string describe(std::uintptr_t at) {
  const Allocation* const allocation = find_allocation(at);
  if (!allocation) return "device memory that is nobody's";
  const std::string name = "the " + std::to_string(allocation->bytes) + " bytes of allocation " +
                           std::to_string(allocation->number);
  if (at < allocation->begin) return std::to_string(allocation->begin - at) + " bytes before " + name;
  const std::size_t offset = at - allocation->begin;
  if (offset >= allocation->bytes)
    return std::to_string(offset - allocation->bytes) + " bytes behind " + name;
  return "offset " + std::to_string(offset) + " of " + name +
         (allocation->live ? "" : ", which was given back");
}

void check_guards() {
#ifndef __SANITIZE_ADDRESS__
  const OnDevice scope;
  for (const auto& [begin, memory] : pinned)
    if (memory.live) check_guard(begin, memory.bytes);
  for (const Allocation* const allocation : live) {
    if (whole(allocation->begin - kGuard) && whole(allocation->begin + allocation->bytes)) continue;
    set_guards(*allocation);
    throw Report("written outside of " + std::to_string(allocation->bytes) + " bytes of memory, allocation " +
                 std::to_string(allocation->number));
  }
#endif
}

void expect_device(const void* memory, std::size_t bytes, const char* what) {
  const Allocation* const allocation = find_allocation(address(memory));
  const std::string name(what);
  if (!allocation) throw Report(name + ": this is not device memory");
  if (!allocation->live) throw Report(name + ": this memory was given back");
  const std::size_t offset = address(memory) - allocation->begin;
  if (address(memory) < allocation->begin || offset > allocation->bytes || bytes > allocation->bytes - offset)
    throw Report(name + ": " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of " +
                 std::to_string(allocation->bytes));
}

bool in_pinned_memory(std::uintptr_t at, std::size_t bytes) {
  const auto* const found = find_pinned(at);
  if (!found) return false;
  if (!found->second.live) throw Report("this pinned memory was given back");
  return at - found->first + bytes <= found->second.bytes;
}

OnDevice::OnDevice() {
  if (on_device++ == 0) protect(PROT_READ | PROT_WRITE);
}
OnDevice::~OnDevice() {
  if (--on_device == 0) protect(PROT_NONE);
}

void set_memory(std::size_t bytes) { capacity = bytes; }
void set_pinned_memory(std::size_t bytes) { pinned_capacity = bytes; }

std::vector<std::string> leaks() {
  const std::lock_guard lock(mutex);
  std::vector<std::string> result;
  std::vector<Allocation*> by_age = live;
  std::ranges::sort(by_age, {}, &Allocation::number);
  for (const Allocation* const allocation : by_age)
    result.push_back("allocation " + std::to_string(allocation->number) + " of " +
                     std::to_string(allocation->bytes) + " bytes");
  return result;
}

cudaError_t allocate(void** memory, std::size_t bytes) {
  *memory = nullptr;
  if (bytes > capacity - std::min(capacity, counts.live_bytes)) return cudaErrorMemoryAllocation;
  ++counts.allocations;
  if (bytes == 0) return cudaSuccess;
  // A guard, the bytes, a guard, and an unused page.
  const std::size_t pages = (bytes + 2 * kGuard + kPage - 1) / kPage;
  const std::size_t first = arena().used / kPage;
  if ((first + pages + 1) * kPage > kAddresses) return cudaErrorMemoryAllocation;
  watch_for_segmentation_faults();
  auto allocation = std::make_unique<Allocation>();
  allocation->begin = arena().begin + arena().used + kGuard;
  allocation->bytes = bytes;
  allocation->number = allocations.size() + 1;
  allocation->live = true;
  arena().used += (pages + 1) * kPage;
  std::fill_n(arena().pages + first, pages, static_cast<std::uint32_t>(allocation->number));
  void* const pages_begin = pointer(allocation->begin - kGuard);
  mprotect(pages_begin, pages * kPage, PROT_READ | PROT_WRITE);
  // protect() costs time for each page, and without large pages the workspace for products has most of them.
  if (bytes >= kLargePage) madvise(pages_begin, pages * kPage, MADV_HUGEPAGE);
  std::memset(pointer(allocation->begin), kPoison, bytes);
  set_guards(*allocation);
  if (on_device == 0) mprotect(pages_begin, pages * kPage, PROT_NONE);
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(pointer(allocation->begin - kGuard), kGuard);
  __asan_poison_memory_region(pointer(allocation->begin + bytes), pages * kPage - kGuard - bytes + kPage);
#endif
  *memory = pointer(allocation->begin);
  live.push_back(allocation.get());
  allocations.push_back(std::move(allocation));
  ++counts.live;
  counts.live_bytes += bytes;
  return cudaSuccess;
}

void release(void* memory) { give_back(memory); }

std::pair<std::size_t, std::size_t> free_and_total() {
  return {capacity - std::min(capacity, counts.live_bytes), capacity};
}

// Pages of its own, between two inaccessible ones; the addresses are never used again.
cudaError_t allocate_pinned(void** memory, std::size_t bytes) {
  *memory = nullptr;
  if (bytes > pinned_capacity - std::min(pinned_capacity, counts.pinned_bytes))
    return cudaErrorMemoryAllocation;
  ++counts.pinned_allocations;
  if (bytes == 0) return cudaSuccess;
  watch_for_segmentation_faults();
  const std::size_t size = pages_for(bytes) * kPage;
  auto* const begin = static_cast<std::byte*>(reserve(size + 2 * kPage, PROT_NONE)) + kPage;
  mprotect(begin, size, PROT_READ | PROT_WRITE);
  std::memset(begin, kPoison, bytes);
  std::memset(begin + bytes, kGuardByte, size - bytes);
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(begin + bytes, size - bytes);
#endif
  pinned[address(begin)] = {bytes};
  counts.pinned_bytes += bytes;
  *memory = begin;
  return cudaSuccess;
}

void release_pinned(void* memory) {
  if (!memory) return;
  const auto found = pinned.find(address(memory));
  if (found == pinned.end()) throw Report("cudaFreeHost: this is not the beginning of pinned memory");
  auto& [begin, allocation] = *found;
  if (!allocation.live) throw Report("cudaFreeHost: this memory was given back before");
  allocation.live = false;
  counts.pinned_bytes -= allocation.bytes;
  const std::size_t size = pages_for(allocation.bytes) * kPage;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(memory,
                                size);  // a later access is to fault, not to be AddressSanitizer's error
#endif
  check_guard(begin, allocation.bytes);
  madvise(memory, size, MADV_DONTNEED);
  mprotect(memory, size, PROT_NONE);
}

}  // namespace conclave::emulator

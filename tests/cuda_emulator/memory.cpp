// Device memory: addresses set apart for it, which are never used twice, so that what was given back can
// still be told from what never was. An allocation has its own pages, and guards before and behind it.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <new>

#include "tests/cuda_emulator/internal.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace conclave::emulator {
namespace {

constexpr std::size_t kPage = 4096, kGuard = 256;  // CUDA aligns allocations to as much
constexpr std::size_t kLargePage = 2 << 20;
constexpr unsigned char kGuardByte = 0xA5;
constexpr std::size_t kAddresses = std::size_t{256} << 30;

struct Arena {
  std::uintptr_t begin = 0;
  std::size_t used = 0;
  // By page, which allocation's it is: its number, 0 for none's.
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

// Never destroyed, as tensors in static variables are given back late.
auto& allocations = *new std::vector<std::unique_ptr<Allocation>>;
auto& live = *new std::vector<Allocation*>;  // in no order
auto& pinned = *new std::map<std::uintptr_t, std::size_t>;
auto& free_shadows = *new std::multimap<std::size_t, Cell*>;  // by size
std::size_t capacity = [] {
  const char* mebibytes = std::getenv("CONCLAVE_CUDA_MEMORY");
  return mebibytes ? std::strtoull(mebibytes, nullptr, 10) << 20 : std::size_t{4} << 30;
}();
int on_device = 0;

struct CountsAtEnd {
  ~CountsAtEnd() {
    if (const char* path = std::getenv("CONCLAVE_CUDA_COUNTS"))
      std::ofstream(path, std::ios::app) << counts.allocations << std::endl;
  }
} counts_at_end;

void* pointer(std::uintptr_t at) { return reinterpret_cast<void*>(at); }

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

struct sigaction handler_before;

void on_segmentation_fault(int number, siginfo_t* info, void* state) {
  if (in_device_memory(address(info->si_addr))) {
    constexpr std::string_view kText = "emulated CUDA device: the host's code touched device memory\n";
    [[maybe_unused]] const auto written = write(STDERR_FILENO, kText.data(), kText.size());
  }
  if (handler_before.sa_flags & SA_SIGINFO) return handler_before.sa_sigaction(number, info, state);
  sigaction(SIGSEGV, &handler_before, nullptr);  // the same instruction then fails again
}

// Catch2 sets its own for each test, and so this is asked for again and again.
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
  // Its memory goes back to the system, its addresses to nobody.
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

// What another memory's accesses left in the cells does no harm, as no launch is theirs any more.
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

bool in_pinned_memory(std::uintptr_t at) {
  const auto found = pinned.upper_bound(at);
  return found != pinned.begin() && at - std::prev(found)->first < std::prev(found)->second;
}

OnDevice::OnDevice() {
  if (on_device++ == 0) protect(PROT_READ | PROT_WRITE);
}
OnDevice::~OnDevice() {
  if (--on_device == 0) protect(PROT_NONE);
}

void set_memory(std::size_t bytes) { capacity = bytes; }

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
  // A guard, the bytes, a guard, and a page that is nobody's.
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
  // protect() takes its time for every page: those of a workspace for products would be most there are.
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

void* allocate_pinned(std::size_t bytes) {
  void* const memory = std::malloc(std::max<std::size_t>(bytes, 1));
  if (memory) {
    std::memset(memory, kPoison, bytes);
    pinned[address(memory)] = bytes;
  }
  return memory;
}

void release_pinned(void* memory) {
  if (!memory) return;
  if (pinned.erase(address(memory)) == 0) throw Report("cudaFreeHost: this is not memory of cudaMallocHost");
  std::free(memory);
}

}  // namespace conclave::emulator

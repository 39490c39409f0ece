// What the emulator's parts know of each other: block.cpp runs a block's threads, access.cpp looks at what
// they touch, memory.cpp owns what they may touch, streams.cpp decides when, symbols.cpp gives names,
// nccl.cpp is between the devices of several processes, and mpi.cpp between their hosts.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/emulator.h"

namespace conclave::emulator {

/// A mistake of the program on the device; streams.cpp makes the report of it.
struct Report : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr unsigned kWarp = 32;
constexpr int kPoison = 0xFF;  // floating-point: NaN
constexpr std::size_t kStaticShared = 48 << 10, kMostShared = 227 << 10;
// For the __shared__ variables of functions, of which nobody knows here which kernel calls them.
constexpr std::size_t kSharedOfFunctions = 1 << 10;

extern std::recursive_mutex mutex;  // of everything: host threads take turns
extern Counters counts;

inline std::uintptr_t address(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory); }
std::string text_of(const uint3& index);  ///< "(1, 0, 0)"

/// xoshiro would be better and slower; this decides orders only.
class Random {
 public:
  void seed(std::uint64_t seed) { state_ = seed * 0x9E3779B97F4A7C15u + 1; }
  std::uint32_t below(std::uint32_t count) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<std::uint32_t>((state_ >> 32) * count >> 32);
  }
  template <class T>
  void shuffle(std::span<T> values) {
    for (std::size_t i = values.size(); i > 1; --i)
      std::swap(values[i - 1], values[below(static_cast<std::uint32_t>(i))]);
  }

 private:
  std::uint64_t state_ = 0x9E3779B97F4A7C15u;
};
extern Random order;

// ---- Streams, for the libraries that queue work of their own

/// Queues work on a stream, which gets the number of begin_work() when it runs; throws Report where the
/// stream was destroyed. The work of no name touches no memory.
void queue(cudaStream_t stream, const std::string& name, std::function<void(std::uint32_t)> run);
/// A call of the host's that may fail begins; throws Report where break_at() wants it to.
void count_call();
/// Adds to the report.
void complain(const std::string& what);
/// What the report says so far, "" for nothing.
const std::string& report_so_far();

// ---- What threads touched lately, to see two that touch the same without a barrier between them

/// Who touched a word, and when: two accesses of one launch by different threads are ordered where a barrier
/// of their block lies between them, or one of their warp; those of two launches, where a stream, an event or
/// the host's waiting put one before the other.
struct Access {
  std::uint32_t launch = 0, block = 0;  // begin_work() numbers launches
  std::uint16_t thread = 0, barriers = 0, warp_barriers = 0;
  std::uint8_t bytes = 0;  // a bit for each of the word's four
  bool atomic = false;
};
struct Cell {
  Access write;
  Access reads[2];  // by two threads, the second of which is the last of those that came after the first
};

/// An array of Cells, one for each word, that takes memory only where it is used.
class Shadow {
 public:
  Shadow() = default;
  ~Shadow();
  Shadow(Shadow&& other) noexcept
      : cells_(std::exchange(other.cells_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Shadow& operator=(Shadow&& other) noexcept {
    std::swap(cells_, other.cells_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  bool used() const { return cells_ != nullptr; }
  /// Of the word at `offset` of `memory_bytes`.
  Cell& at(std::size_t offset, std::size_t memory_bytes) {
    if (!cells_) [[unlikely]]
      take(memory_bytes);
    return cells_[offset / 4];
  }

 private:
  void take(std::size_t memory_bytes);

  Cell* cells_ = nullptr;
  std::size_t bytes_ = 0;
};

/// When a sector of device memory was last touched: the numbers of the launch and, over all launches, of the
/// block. As blocks run one after the other, that tells a first touch from the next ones.
struct Sector {
  std::uint32_t read_by_launch = 0, written_by_launch = 0;
  std::uint64_t read_by_block = 0, written_by_block = 0;
};
constexpr std::size_t kSector = 32;
void begin_block_traffic();

/// A piece of work begins, whose number for Access::launch this returns; `before[s]` pieces of stream number
/// s are known to have come before it.
std::uint32_t begin_work(std::size_t stream, std::uint64_t ticket, const std::vector<std::uint64_t>& before,
                         const std::string& name);
/// The piece that runs reads or writes all of these bytes of the device's; throws Report for a race. They are
/// no traffic where they are what a library works in.
void see_range(const void* memory, std::size_t bytes, bool writes, bool is_traffic = true);

// ---- Memory

struct Allocation {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;
  std::size_t number = 0;  // the first cudaMalloc's is 1
  bool live = false;
  Shadow shadow;
  std::vector<Sector> sectors;  // empty until its traffic is counted
};

/// The allocation on whose pages `at` lies, null for none; also one that was given back, as nobody gets its
/// addresses again.
Allocation* find_allocation(std::uintptr_t at);
/// Whether `at` lies in the addresses that are kept for device memory.
bool in_device_memory(std::uintptr_t at);
/// "12 bytes behind the 400 bytes of allocation 3"
std::string describe(std::uintptr_t at);
/// Throws Report where the bytes around an allocation were overwritten, which a kernel can do and nobody
/// else.
void check_guards();
/// Throws Report unless all of it is one live allocation's.
void expect_device(const void* memory, std::size_t bytes, const char* what);
/// Whether all of it is one pinned allocation's that was not given back; throws Report where it was.
bool in_pinned_memory(std::uintptr_t at, std::size_t bytes);

// What is behind cudaMalloc and its kin; release() and release_pinned() throw Report.
cudaError_t allocate(void** memory, std::size_t bytes);
void release(void* memory);
std::pair<std::size_t, std::size_t> free_and_total();
cudaError_t allocate_pinned(void** memory, std::size_t bytes);
void release_pinned(void* memory);

/// Device memory can be touched while one of these lives; else that is a segmentation fault, as a host's
/// access to a GPU's memory would be.
class OnDevice {
 public:
  OnDevice();
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
};

// ---- Streams

/// Work that waits for other processes.
class SharedWork {
 public:
  virtual ~SharedWork() = default;
  /// Goes on as far as it can without waiting; whether it is complete. What it reads and writes the first
  /// call says by see_range(). Throws Report.
  virtual bool advance() = 0;
  virtual std::string waits_for() const = 0;  ///< "has no answer of rank 1"
};
void queue_shared(cudaStream_t stream, const std::string& name, std::shared_ptr<SharedWork> work);
/// One piece of any stream's work, for the host's thread that gives it; false where none can go on.
bool go_on();

// ---- Other processes

/// One piece of work, if another process has begun something that this one's device has to do as well; false
/// where there is nothing to be done.
bool help_peers();

// ---- Names

struct SharedVariable {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;
  std::string name;
  std::string kernel;  // mangled, "" for a variable of a function that kernels call
  Shadow shadow;
};
/// All __shared__ variables of the program, by address.
std::vector<SharedVariable>& shared_variables();
/// As in the object file, "" where that does not say.
std::string mangled_name(const void* function);
std::string readable_name(const std::string& mangled);
/// Whether this is a variable of the program's own (__device__, __constant__, constants).
bool in_program(std::uintptr_t at);

// ---- Blocks

/// Runs all of a launch's blocks; throws Report.
void run_grid(const cudaLaunchConfig_t& config, const KernelCall& call, const std::string& mangled_kernel,
              std::uint32_t launch);
/// Bytes of __shared__ variables in a kernel itself.
std::size_t static_shared_bytes(const std::string& mangled_kernel);

/// The thread whose code this is, for access.cpp; all of it is of the block that runs.
struct Running {
  std::uintptr_t stack_begin = 0, stack_bytes = 0;
  std::uintptr_t call_begin = 0, call_bytes = 0;
  std::uintptr_t shared_area = 0, shared_area_bytes = 0;  // where dynamic shared memory is, with guards
  std::uintptr_t shared_begin = 0, shared_bytes = 0;
  std::uint32_t launch = 0, block = 0, threads = 0;
  std::uint16_t thread = 0, barriers = 0;
  const std::uint16_t* warp_barriers = nullptr;  // of each warp
  bool fenced = false;                           // some thread of the launch called __threadfence()
};
extern thread_local Running* running;  // null in the host's code
/// Ends the kernel, with a report that says where this thread is, without unwinding: for functions that the
/// compiler holds for incapable of throwing.
[[noreturn]] void stop(std::string&& what);
/// Two threads wrote to one place: throws Report if the second one, which runs, wrote another value.
void settle();
void forget_suspicion();  // of a thread that ended in another way

}  // namespace conclave::emulator

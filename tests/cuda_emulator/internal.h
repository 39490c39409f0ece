// The interfaces between the parts of the emulator: block.cpp runs the threads of a block, access.cpp checks
// their memory accesses, memory.cpp owns device memory, streams.cpp decides when work runs, symbols.cpp finds
// names of kernels and variables, nccl.cpp connects the devices of several processes and mpi.cpp their hosts.
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

/// A mistake of the program that runs on the device; streams.cpp adds it to the report.
struct Report : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr unsigned kWarp = 32;
constexpr int kPoison = 0xFF;  // floating-point: NaN
constexpr std::size_t kStaticShared = 48 << 10, kMostShared = 227 << 10;
// Room for the __shared__ variables of functions, as the emulator does not know which kernels call a
// function.
constexpr std::size_t kSharedOfFunctions = 1 << 10;

extern std::recursive_mutex mutex;  // guards all state: one host thread runs at a time
extern Counters counts;

inline std::uintptr_t address(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory); }
std::string text_of(const uint3& index);  ///< "(1, 0, 0)"

/// A fast xorshift generator; good enough, as it only decides orders.
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

/// Queues work on a stream; `run` gets the number that begin_work() returns. Work without a name touches no
/// memory. Throws Report if the stream was destroyed.
void queue(cudaStream_t stream, const std::string& name, std::function<void(std::uint32_t)> run);
/// To be called at the start of a host call that may fail; throws Report if break_at() chose this call.
void count_call();
/// Adds a mistake to the report.
void complain(const std::string& what);
/// The report so far, "" if there is none.
const std::string& report_so_far();

// ---- The latest accesses to each word, to detect races

/// One access to a word. Two accesses by different threads of a launch are ordered if a barrier of their
/// block or warp lies between them. Accesses of two launches are ordered if a stream, an event or a wait of
/// the host puts one launch before the other.
struct Access {
  std::uint32_t launch = 0, block = 0;  // begin_work() numbers launches
  std::uint16_t thread = 0, barriers = 0, warp_barriers = 0;
  std::uint8_t bytes = 0;  // one bit for each of the four bytes of the word
  bool atomic = false;
};
struct Cell {
  Access write;
  Access reads[2];  // by two different threads: the first reader and the latest other one
};

/// An array of Cells, one for each word of an allocation; allocated at the first use.
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
  /// The cell of the word at `offset` in an allocation of `memory_bytes`.
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

/// The latest launch and block that touched a sector of device memory; blocks are numbered over all launches.
/// As blocks run one after the other, these numbers show whether a touch is the first of its launch or block.
struct Sector {
  std::uint32_t read_by_launch = 0, written_by_launch = 0;
  std::uint64_t read_by_block = 0, written_by_block = 0;
};
constexpr std::size_t kSector = 32;
void begin_block_traffic();

/// Begins a piece of work and returns its number, for Access::launch. `before[s]` pieces of stream s are
/// known to precede it.
std::uint32_t begin_work(std::size_t stream, std::uint64_t ticket, const std::vector<std::uint64_t>& before,
                         const std::string& name);
/// Records that the running piece of work reads or writes these bytes of the device; throws Report for a
/// race. A library's workspace does not count as traffic.
void see_range(const void* memory, std::size_t bytes, bool writes, bool is_traffic = true);

// ---- Memory

struct Allocation {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;
  std::size_t number = 0;  // the first call of cudaMalloc has 1
  bool live = false;
  Shadow shadow;
  std::vector<Sector> sectors;  // empty until traffic is counted
};

/// The allocation whose pages contain `at`, or null. Finds freed allocations, too, as no address is used
/// twice.
Allocation* find_allocation(std::uintptr_t at);
/// Whether `at` lies in the range of addresses that is reserved for device memory.
bool in_device_memory(std::uintptr_t at);
/// "12 bytes behind the 400 bytes of allocation 3"
std::string describe(std::uintptr_t at);
/// Throws Report if the bytes around an allocation were overwritten. Only a kernel can do that.
void check_guards();
/// Throws Report unless all bytes belong to one live allocation.
void expect_device(const void* memory, std::size_t bytes, const char* what);
/// Whether all bytes belong to one pinned allocation; throws Report if that was freed.
bool in_pinned_memory(std::uintptr_t at, std::size_t bytes);

// Behind cudaMalloc, cudaFree and the like; release() and release_pinned() throw Report.
cudaError_t allocate(void** memory, std::size_t bytes);
void release(void* memory);
std::pair<std::size_t, std::size_t> free_and_total();
cudaError_t allocate_pinned(void** memory, std::size_t bytes);
void release_pinned(void* memory);

/// Makes device memory accessible for its lifetime. At other times an access is a segmentation fault, as when
/// host code accesses the memory of a GPU.
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
  /// Proceeds as far as possible without waiting; returns whether the work is complete. The first call
  /// records all reads and writes by see_range(). Throws Report.
  virtual bool advance() = 0;
  virtual std::string waits_for() const = 0;  ///< "has no answer of rank 1"
};
void queue_shared(cudaStream_t stream, const std::string& name, std::shared_ptr<SharedWork> work);
/// Runs one piece of work of any stream, on a host thread that queues work; false if no stream can proceed.
bool go_on();

// ---- Other processes

/// Runs one piece of work if another process has begun an operation that needs this device; false if there is
/// nothing to do.
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
/// The kernel's name in the object file, "" if it has no symbol there.
std::string mangled_name(const void* function);
std::string readable_name(const std::string& mangled);
/// Whether `at` is a variable of the program (__device__, __constant__, constants).
bool in_program(std::uintptr_t at);

// ---- Blocks

/// Runs all of a launch's blocks; throws Report.
void run_grid(const cudaLaunchConfig_t& config, const KernelCall& call, const std::string& mangled_kernel,
              std::uint32_t launch);
/// Bytes of __shared__ variables in a kernel itself.
std::size_t static_shared_bytes(const std::string& mangled_kernel);

/// The running thread and its block, for the checks of access.cpp.
struct Running {
  std::uintptr_t stack_begin = 0, stack_bytes = 0;
  std::uintptr_t call_begin = 0, call_bytes = 0;
  std::uintptr_t shared_area = 0, shared_area_bytes = 0;  // dynamic shared memory and its guards
  std::uintptr_t shared_begin = 0, shared_bytes = 0;
  std::uint32_t launch = 0, block = 0, threads = 0;
  std::uint16_t thread = 0, barriers = 0;
  const std::uint16_t* warp_barriers = nullptr;  // of each warp
  bool fenced = false;                           // a thread of the launch called __threadfence()
};
extern thread_local Running* running;  // null in host code
/// Ends the kernel with a report that names this thread, without unwinding: for functions that the compiler
/// assumes not to throw.
[[noreturn]] void stop(std::string&& what);
/// Completes a pending check for a race: if two threads wrote to the same place, throws Report unless the
/// running one, the second, wrote the same value.
void settle();
void forget_suspicion();  // drops a pending check, left by a thread that ended with a failure

}  // namespace conclave::emulator

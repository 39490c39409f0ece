// Three parts: the fibers of a block, the memory, the streams.
#include "tests/cuda_emulator/emulator.h"

#include <cuda_runtime.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <boost/context/detail/fcontext.hpp>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace conclave::emulator {
namespace {

namespace context = boost::context::detail;

struct Report : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr unsigned kWarp = 32;
constexpr int kPoison = 0xFF;  // floating-point: NaN
constexpr std::size_t kGuard = 128, kStaticShared = 48 << 10, kMostShared = 227 << 10;
constexpr unsigned char kGuardByte = 0xA5;

std::mt19937_64 random_engine{1};
std::recursive_mutex mutex;  // of all that follows: host threads take turns
std::string report;
Counters counts;

void complain(const std::string& what) { report += (report.empty() ? "" : "; ") + what; }

std::string name_of(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

// ---- Fibers
// ----------------------------------------------------------------------------------------------------

class Stack {
 public:
  Stack()
      : memory_(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                     0)) {
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory_, kPage, PROT_NONE);
  }
  ~Stack() { munmap(memory_, kBytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  void* bottom() const { return static_cast<char*>(memory_) + kPage; }
  void* top() const { return static_cast<char*>(memory_) + kBytes; }
  static constexpr std::size_t size() { return kBytes - kPage; }

 private:
  static constexpr std::size_t kPage = 4096, kBytes = 256 << 10;
  void* memory_;
};

enum class State { ready, at_barrier, in_warp, finished };

struct Thread {
  uint3 index{};
  unsigned number = 0;
  State state = State::ready;
  std::unique_ptr<Stack> stack;  // from its first instruction to its last
  context::fcontext_t context = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  std::uint64_t value = 0;     // what it brings to a collective, and takes from it
  unsigned source = 0;
};

// Lanes of one warp that wait for the rest of a mask.
struct Meeting {
  unsigned mask = 0, arrived = 0;
  Collective what = Collective::sync;
};

class Block {
 public:
  void run(uint3 index, dim3 size, const std::function<void()>& body);
  std::uint64_t meet_warp(Collective what, unsigned mask, std::uint64_t value, unsigned source);
  int meet_block(bool value);
  unsigned lane() const { return current_->number % kWarp; }
  std::string here() const { return "block " + name_of(blockIdx) + ", thread " + name_of(current_->index); }

 private:
  static void enter(context::transfer_t from);
  void resume(Thread& thread);
  void suspend();
  void make_ready(Thread& thread);
  void choose_paces();
  void open_barrier();

  std::vector<Thread> threads_;
  // From barrier to barrier one warp goes ahead of all others, as far as it can, and one stays behind.
  enum Pace : std::size_t { ahead, usual, behind };
  std::array<std::vector<Thread*>, 3> ready_;  // by pace
  unsigned warp_ahead_ = 0, warp_behind_ = 0;
  std::vector<std::unique_ptr<Stack>> free_stacks_;
  std::vector<std::vector<Meeting>> meetings_;  // by warp
  const std::function<void()>* body_ = nullptr;
  Thread* current_ = nullptr;
  context::fcontext_t scheduler_ = nullptr;
  unsigned at_barrier_ = 0, finished_ = 0;
  int brought_true_ = 0, told_true_ = 0;
  std::string failure_;
#ifdef __SANITIZE_ADDRESS__
  const void* scheduler_bottom_ = nullptr;
  std::size_t scheduler_size_ = 0;
#endif
};

Block block;

void Block::enter(context::transfer_t from) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_bottom_, &block.scheduler_size_);
#endif
  block.scheduler_ = from.fctx;
  try {
    (*block.body_)();
  } catch (const std::exception& error) {
    if (block.failure_.empty()) block.failure_ = error.what();
  }
  block.current_->state = State::finished;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(nullptr, block.scheduler_bottom_, block.scheduler_size_);
#endif
  context::jump_fcontext(block.scheduler_, nullptr);
}

void Block::resume(Thread& thread) {
  if (!thread.stack) {
    if (free_stacks_.empty()) free_stacks_.push_back(std::make_unique<Stack>());
    thread.stack = std::move(free_stacks_.back());
    free_stacks_.pop_back();
    thread.context = context::make_fcontext(thread.stack->top(), Stack::size(), &Block::enter);
  }
  current_ = &thread;
  threadIdx = thread.index;
#ifdef __SANITIZE_ADDRESS__
  void* mine = nullptr;
  __sanitizer_start_switch_fiber(&mine, thread.stack->bottom(), Stack::size());
  thread.context = context::jump_fcontext(thread.context, nullptr).fctx;
  __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#else
  thread.context = context::jump_fcontext(thread.context, nullptr).fctx;
#endif
  if (thread.state != State::finished) return;
  ++finished_;
  free_stacks_.push_back(std::move(thread.stack));
}

void Block::suspend() {
#ifdef __SANITIZE_ADDRESS__
  Thread& thread = *current_;
  __sanitizer_start_switch_fiber(&thread.fake_stack, scheduler_bottom_, scheduler_size_);
  scheduler_ = context::jump_fcontext(scheduler_, nullptr).fctx;
  __sanitizer_finish_switch_fiber(thread.fake_stack, &scheduler_bottom_, &scheduler_size_);
#else
  scheduler_ = context::jump_fcontext(scheduler_, nullptr).fctx;
#endif
}

// At a place among those of its pace that chance chooses.
void Block::make_ready(Thread& thread) {
  thread.state = State::ready;
  const unsigned warp = thread.number / kWarp;
  auto& ready = ready_[warp == warp_ahead_ ? ahead : warp == warp_behind_ ? behind : usual];
  ready.push_back(&thread);
  std::swap(ready.back(), ready[random_engine() % ready.size()]);
}

void Block::choose_paces() {
  warp_ahead_ = static_cast<unsigned>(random_engine() % meetings_.size());
  warp_behind_ = static_cast<unsigned>(random_engine() % meetings_.size());
}

void Block::open_barrier() {
  told_true_ = brought_true_;
  brought_true_ = 0;
  at_barrier_ = 0;
  choose_paces();
  for (Thread& thread : threads_)
    if (thread.state == State::at_barrier) make_ready(thread);
}

void Block::run(uint3 index, dim3 size, const std::function<void()>& body) {
  blockIdx = index;
  const unsigned count = size.x * size.y * size.z;
  threads_.resize(count);
  for (auto& ready : ready_) ready.clear();
  meetings_.assign((count + kWarp - 1) / kWarp, {});
  body_ = &body;
  at_barrier_ = finished_ = 0;
  brought_true_ = 0;
  failure_.clear();
  choose_paces();
  for (unsigned i = 0; i < count; ++i) {
    threads_[i].number = i;
    threads_[i].index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    make_ready(threads_[i]);
  }
  while (finished_ < count && failure_.empty()) {
    const auto next = std::ranges::find_if(ready_, [](const auto& ready) { return !ready.empty(); });
    if (next == ready_.end()) {
      const Thread& waits =
          *std::ranges::find_if(threads_, [](const Thread& t) { return t.state != State::finished; });
      failure_ =
          "thread " + name_of(waits.index) + " of block " + name_of(index) + " waits for ever in " +
          (waits.state == State::at_barrier ? "__syncthreads, which others did not reach"
                                            : "a warp's operation, which lanes of its mask did not reach");
      break;
    }
    Thread& thread = *next->back();
    next->pop_back();
    resume(thread);
  }
  // Fibers that wait are left where they are; what their stacks held is not destroyed.
  for (Thread& thread : threads_)
    if (thread.stack) free_stacks_.push_back(std::move(thread.stack));
  if (!failure_.empty()) throw Report(failure_);
}

std::uint64_t Block::meet_warp(Collective what, unsigned mask, std::uint64_t value, unsigned source) {
  Thread& me = *current_;
  const unsigned warp = me.number / kWarp, first = warp * kWarp;
  const auto lanes = std::min<unsigned>(kWarp, static_cast<unsigned>(threads_.size()) - first);
  // Lanes that a block does not have are not missed.
  if (lanes < kWarp) mask &= (1u << lanes) - 1;
  if ((mask >> lane() & 1) == 0)
    throw Report(here() + ": the mask of a warp's operation lacks the lane itself");
  auto& meetings = meetings_[warp];
  auto meeting = std::ranges::find_if(meetings, [&](const Meeting& m) { return m.mask == mask; });
  if (meeting == meetings.end()) meeting = meetings.insert(meetings.end(), Meeting{mask, 0, what});
  if (meeting->what != what) throw Report(here() + ": lanes of one mask do different operations of a warp");
  meeting->arrived |= 1u << lane();
  me.value = value;
  me.source = source;
  if (meeting->arrived != mask) {
    me.state = State::in_warp;
    suspend();
    return me.value;
  }
  meetings.erase(meeting);
  std::array<std::uint64_t, kWarp> brought{};
  std::uint64_t ballot = 0;
  for (unsigned l = 0; l < lanes; ++l) {
    brought[l] = threads_[first + l].value;
    if ((mask >> l & 1) != 0 && brought[l] != 0) ballot |= std::uint64_t{1} << l;
  }
  for (unsigned l = 0; l < lanes; ++l) {
    if ((mask >> l & 1) == 0) continue;
    Thread& thread = threads_[first + l];
    if (what == Collective::ballot) thread.value = ballot;
    if (what == Collective::shuffle) {
      if (thread.source >= lanes || (mask >> thread.source & 1) == 0)
        throw Report(here() + ": a shuffle reads lane " + std::to_string(thread.source) +
                     ", which takes no part");
      thread.value = brought[thread.source];
    }
    if (&thread != &me) make_ready(thread);
  }
  return me.value;
}

int Block::meet_block(bool value) {
  brought_true_ += value;
  current_->state = State::at_barrier;
  if (++at_barrier_ == threads_.size()) open_barrier();
  suspend();
  return told_true_;
}

// ---- Memory
// ----------------------------------------------------------------------------------------------------

struct Allocation {
  void* block;
  std::size_t bytes;
  bool live = true;
};
// Those given back too: nobody gets their addresses again. Never destroyed.
auto& allocations = *new std::map<std::uintptr_t, Allocation>;
std::size_t capacity = std::size_t{4} << 30, taken = 0;
std::vector<unsigned char> shared_bytes;

std::uintptr_t address(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory); }

void guard(std::uintptr_t begin, std::size_t bytes) {
  std::memset(reinterpret_cast<void*>(begin - kGuard), kGuardByte, kGuard);
  std::memset(reinterpret_cast<void*>(begin + bytes), kGuardByte, kGuard);
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(reinterpret_cast<void*>(begin - kGuard), kGuard);
  __asan_poison_memory_region(reinterpret_cast<void*>(begin + bytes), kGuard);
#endif
}

void check_guards([[maybe_unused]] const char* when) {
#ifndef __SANITIZE_ADDRESS__  // which says so at once, and where
  for (const auto& [begin, allocation] : allocations) {
    if (!allocation.live) continue;
    const auto* bytes = reinterpret_cast<const unsigned char*>(begin);
    const auto whole = [](const unsigned char* from) {
      return std::all_of(from, from + kGuard, [](unsigned char byte) { return byte == kGuardByte; });
    };
    if (whole(bytes - kGuard) && whole(bytes + allocation.bytes)) continue;
    guard(begin, allocation.bytes);
    throw Report(std::string("written outside of ") + std::to_string(allocation.bytes) +
                 " bytes of memory, seen " + when);
  }
#endif
}

// Throws unless all of it is one live allocation's.
void expect_device(const void* memory, std::size_t bytes, const char* what) {
  auto found = allocations.upper_bound(address(memory));
  if (found == allocations.begin()) throw Report(std::string(what) + ": this is not device memory");
  --found;
  const std::size_t offset = address(memory) - found->first;
  if (offset > found->second.bytes) throw Report(std::string(what) + ": this is not device memory");
  if (!found->second.live) throw Report(std::string(what) + ": this memory was given back");
  if (bytes > found->second.bytes - offset)
    throw Report(std::string(what) + ": " + std::to_string(bytes) + " bytes at offset " +
                 std::to_string(offset) + " of " + std::to_string(found->second.bytes));
}

// ---- Streams
// ---------------------------------------------------------------------------------------------------

}  // namespace
}  // namespace conclave::emulator

struct CUstream_st {
  std::deque<std::function<void()>> work;
  std::uint64_t queued = 0, done = 0;
};
struct CUevent_st {
  CUstream_st* stream = nullptr;
  std::uint64_t ticket = 0;
};

namespace conclave::emulator {
namespace {

CUstream_st default_stream;
std::vector<CUstream_st*> streams{&default_stream};

CUstream_st& of(cudaStream_t stream) { return stream ? *stream : default_stream; }

void queue(cudaStream_t stream, std::function<void()> work) {
  of(stream).work.push_back(std::move(work));
  ++of(stream).queued;
}

// Runs the stream's work up to piece number `ticket`. After a report nothing runs any more, as after an error
// of CUDA's.
void drain(CUstream_st& stream, std::uint64_t ticket) {
  while (stream.done < ticket) {
    const auto work = std::move(stream.work.front());
    stream.work.pop_front();
    ++stream.done;
    if (!report.empty()) continue;
    try {
      work();
    } catch (const std::exception& error) {
      complain(error.what());
    }
  }
}

void drain_all() {
  for (CUstream_st* stream : streams) drain(*stream, stream->queued);
}

cudaError_t status() { return report.empty() ? cudaSuccess : cudaErrorLaunchFailure; }

// A call of the host's: one at a time, and what it throws becomes a report.
template <class Body>
cudaError_t call(Body&& body) {
  const std::lock_guard lock(mutex);
  try {
    body();
  } catch (const std::exception& error) {
    complain(error.what());
  }
  return status();
}

void run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& body) {
  ++counts.launches;
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  std::vector<unsigned> order(std::size_t{gridDim.x} * gridDim.y * gridDim.z);
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::shuffle(order, random_engine);
  for (const unsigned b : order) {
    // To the byte: what lies behind is AddressSanitizer's to see.
    shared_bytes = std::vector<unsigned char>(config.dynamicSmemBytes, kPoison);
    block.run({b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y}, blockDim, body);
  }
  check_guards("after a kernel");
}

std::size_t hash(const void* memory, std::size_t bytes) {
  return std::hash<std::string_view>()({static_cast<const char*>(memory), bytes});
}

}  // namespace

Counters counters() {
  const std::lock_guard lock(mutex);
  return counts;
}

void set_seed(std::uint64_t seed) { random_engine.seed(seed); }

void set_memory(std::size_t bytes) { capacity = bytes; }

std::string take_report() {
  const std::lock_guard lock(mutex);
  drain_all();
  return std::exchange(report, {});
}

std::uint64_t meet_warp(Collective what, unsigned mask, std::uint64_t value, unsigned source) {
  return block.meet_warp(what, mask, value, source);
}
int meet_block(bool value) { return block.meet_block(value); }
void* shared_memory() { return shared_bytes.data(); }
unsigned lane() { return block.lane(); }

cudaError_t queue_kernel(const cudaLaunchConfig_t& config, std::function<void()> thread) {
  const std::lock_guard lock(mutex);
  const auto& [x, y, z] = config.blockDim;
  const dim3& grid = config.gridDim;
  if (x * y * z == 0 || std::size_t{x} * y * z > 1024 || z > 64 || grid.x * grid.y * grid.z == 0 ||
      grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 || config.dynamicSmemBytes > kStaticShared)
    return cudaErrorInvalidConfiguration;
  queue(config.stream, [config, thread = std::move(thread)] { run_grid(config, thread); });
  return status();
}

}  // namespace conclave::emulator

// ---- CUDA's functions
// ------------------------------------------------------------------------------------------

using namespace conclave::emulator;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorLaunchFailure:
      break;
  }
  return report.c_str();
}

cudaError_t cudaGetLastError() {
  return call([] {});
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = capacity;
  *free = capacity - std::min(capacity, taken);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const std::lock_guard lock(mutex);
  *memory = nullptr;
  if (bytes > capacity - std::min(capacity, taken)) return cudaErrorMemoryAllocation;
  ++counts.allocations;
  if (bytes == 0) return status();
  // Aligned as CUDA's is.
  const std::size_t room = (bytes + 2 * kGuard + 255 + 256) / 256 * 256;
  void* const block = std::aligned_alloc(256, room);
  const auto begin = address(block) + 256;
  static_assert(kGuard <= 256);
  std::memset(reinterpret_cast<void*>(begin), kPoison, bytes);
  guard(begin, bytes);
  allocations[begin] = {block, bytes, true};
  ++counts.live;
  taken += bytes;
  *memory = reinterpret_cast<void*>(begin);
  return status();
}

cudaError_t cudaFree(void* memory) {
  return call([&] {
    if (!memory) return;
    drain_all();
    const auto found = allocations.find(address(memory));
    if (found == allocations.end())
      throw std::runtime_error("cudaFree: this is not the beginning of device memory");
    if (!found->second.live) throw std::runtime_error("cudaFree: this memory was given back before");
    check_guards("when it was given back");
    found->second.live = false;
    --counts.live;
    taken -= found->second.bytes;
    std::memset(memory, kPoison, found->second.bytes);
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(memory, found->second.bytes);
#endif
  });
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  *memory = std::malloc(bytes);
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call([&] {
    if (bytes == 0) return;
    const bool from_host = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost,
               to_host = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost;
    if (!from_host) expect_device(from, bytes, "cudaMemcpy from");
    if (!to_host) expect_device(to, bytes, "cudaMemcpy to");
    const std::size_t before = from_host ? hash(from, bytes) : 0;
    if (to_host) std::memset(to, kPoison, bytes);
    queue(stream, [=] {
      if (!from_host) expect_device(from, bytes, "cudaMemcpy from");
      if (!to_host) expect_device(to, bytes, "cudaMemcpy to");
      if (from_host && hash(from, bytes) != before)
        throw Report("cudaMemcpyAsync: the host's memory was changed before it had been copied");
      std::memcpy(to, from, bytes);
    });
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  return call([&] {
    if (bytes == 0) return;
    expect_device(memory, bytes, "cudaMemset");
    queue(stream, [=] {
      expect_device(memory, bytes, "cudaMemset");
      std::memset(memory, value, bytes);
    });
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return call([&] { streams.push_back(*stream = new CUstream_st); });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call([&] {
    drain(*stream, stream->queued);
    std::erase(streams, stream);
    delete stream;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call([&] { drain(of(stream), of(stream).queued); });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return call([&] {
    if (!event->stream) return;
    queue(stream, [from = event->stream, ticket = event->ticket] { drain(*from, ticket); });
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call([&] {
    queue(stream, [] {});
    *event = {&of(stream), of(stream).queued};
  });
}

// Whoever asks again and again is told yes in the end: each question runs a piece of work.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  if (!event->stream || event->stream->done >= event->ticket) return status();
  drain(*event->stream, event->stream->done + 1);
  return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call([&] {
    if (event->stream) drain(*event->stream, event->ticket);
  });
}

cudaError_t cudaDeviceSynchronize() { return call(drain_all); }

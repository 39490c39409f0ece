// The threads of a block are fibers. A thread that ends without waiting leaves its fiber to the next thread,
// so a block without barriers costs two switches per warp or block, not two per thread.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <boost/context/detail/fcontext.hpp>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>

#include "tests/cuda_emulator/internal.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Kernels see threadIdx and the like as constants; here the same symbols are variables.
uint3 device_thread_index asm("threadIdx"), device_block_index asm("blockIdx");
dim3 device_block_size asm("blockDim"), device_grid_size asm("gridDim");

namespace conclave::emulator {

thread_local Running* running = nullptr;

namespace {

namespace context = boost::context::detail;

constexpr std::size_t kPage = 4096;

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
  static constexpr std::size_t kBytes = 256 << 10;
  void* memory_;
};

struct Fiber {
  Stack stack;
  context::fcontext_t context = nullptr;  // null: not begun
  bool idle = true;                       // runs no thread
  void* fake_stack = nullptr;             // for AddressSanitizer
};

enum class State { ready, at_barrier, in_warp, finished };

struct Thread {
  uint3 index{};
  unsigned number = 0;
  State state = State::ready;
  Fiber* fiber = nullptr;  // null: not begun
  // The operation for which the thread waits, with its arguments; `value` becomes the result.
  Collective what = Collective::sync;
  unsigned mask = 0, source = 0;
  std::uint64_t value = 0;
  std::source_location where;

  unsigned lane() const { return number % kWarp; }
};

class Block {
 public:
  void begin_launch(const KernelCall& call, dim3 size, std::uint32_t launch, std::size_t shared_bytes);
  void run(uint3 index, std::uint32_t number);
  std::uint64_t meet_warp(Collective what, unsigned mask, std::uint64_t value, unsigned source,
                          std::source_location where);
  int meet_block(Collective what, bool value, std::source_location where);
  unsigned lane() const { return current_->lane(); }
  unsigned unfinished_lanes() const;
  [[noreturn]] void stop(std::string&& what);
  Running& facts() { return facts_; }

 private:
  static void enter(context::transfer_t from);
  void work(Fiber& fiber);
  void run_ready();
  void switch_to(Fiber& fiber);
  void switch_to_scheduler(Fiber& fiber);
  void wait();
  void begin(Thread& thread);
  void run_until_barrier(unsigned first, unsigned count);
  bool resolve_warp(unsigned first);
  bool resolve_meeting(unsigned first, unsigned mask);
  void expect_nobody_waits_in_a_warp();
  bool open_barrier();
  std::string name_of(const Thread& thread) const;
  std::string state_of(const Thread& thread) const;

  const KernelCall* call_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<Thread*> ready_;  // run now, in this order
  std::size_t next_ = 0;        // index into ready_
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  std::vector<std::uint16_t> warp_barriers_;
  Thread* current_ = nullptr;
  Fiber* entering_ = nullptr;
  context::fcontext_t scheduler_ = nullptr;
  unsigned finished_ = 0;
  std::string failure_;
  Running facts_;
#ifdef __SANITIZE_ADDRESS__
  const void* scheduler_bottom_ = nullptr;
  std::size_t scheduler_size_ = 0;
#endif
};

Block& block = *new Block;

// ---- Shared memory

constexpr std::size_t kSharedGuard = 4096;
// Dynamic shared memory ends near the same address for every launch, where its guard begins.
alignas(1024) unsigned char shared_area[kMostShared + kSharedGuard];
std::size_t shared_bytes = 0;

unsigned char* shared_begin() {
  // aligned to 16 bytes, as on a GPU
  return shared_area + (kMostShared - shared_bytes) / 16 * 16;
}

void set_shared(std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(shared_area, sizeof shared_area);
#endif
  shared_bytes = bytes;
  std::memset(shared_area, kPoison, sizeof shared_area);
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(shared_area, static_cast<std::size_t>(shared_begin() - shared_area));
  __asan_poison_memory_region(
      shared_begin() + bytes,
      static_cast<std::size_t>(shared_area + sizeof shared_area - shared_begin()) - bytes);
#endif
}

std::string at(const std::source_location& where) {
  std::string_view file = where.file_name();
  file.remove_prefix(file.find_last_of('/') + 1);  // npos + 1 is 0
  return std::string(file) + ":" + std::to_string(where.line());
}

// ---- Switching

void Block::enter(context::transfer_t from) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_bottom_, &block.scheduler_size_);
#endif
  block.scheduler_ = from.fctx;
  block.work(*block.entering_);
}

// The loop of a fiber: runs threads one after the other, as long as some have not begun.
void Block::work(Fiber& fiber) {
  for (;;) {
    fiber.idle = false;
    while (next_ < ready_.size() && !ready_[next_]->fiber && failure_.empty()) {
      Thread& thread = *ready_[next_++];
      thread.fiber = &fiber;
      begin(thread);
      try {
        call_->run();
        settle();
      } catch (const std::exception& error) {
        if (failure_.empty()) failure_ = name_of(*current_) + ": " + error.what();
      }
      current_->state = State::finished;
      ++finished_;
    }
    fiber.idle = true;
    switch_to_scheduler(fiber);
  }
}

void Block::begin(Thread& thread) {
  current_ = &thread;
  device_thread_index = thread.index;
  facts_.thread = static_cast<std::uint16_t>(thread.number);
  facts_.stack_begin = address(thread.fiber->stack.bottom());
}

void Block::switch_to(Fiber& fiber) {
  if (!fiber.context) {
#ifdef __SANITIZE_ADDRESS__
    // The fiber may have been abandoned after a failure, with poisoned bytes on its stack.
    __asan_unpoison_memory_region(fiber.stack.bottom(), Stack::size());
#endif
    fiber.context = context::make_fcontext(fiber.stack.top(), Stack::size(), &Block::enter);
    entering_ = &fiber;
  }
  running = &facts_;
#ifdef __SANITIZE_ADDRESS__
  void* mine = nullptr;
  __sanitizer_start_switch_fiber(&mine, fiber.stack.bottom(), Stack::size());
  fiber.context = context::jump_fcontext(fiber.context, nullptr).fctx;
  __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#else
  fiber.context = context::jump_fcontext(fiber.context, nullptr).fctx;
#endif
  running = nullptr;
}

void Block::switch_to_scheduler([[maybe_unused]] Fiber& fiber) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fiber.fake_stack, scheduler_bottom_, scheduler_size_);
  scheduler_ = context::jump_fcontext(scheduler_, nullptr).fctx;
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_bottom_, &scheduler_size_);
#else
  scheduler_ = context::jump_fcontext(scheduler_, nullptr).fctx;
#endif
}

// Returns when run_ready() resumes the current thread.
void Block::wait() { switch_to_scheduler(*current_->fiber); }

void Block::stop(std::string&& what) {
  if (failure_.empty()) failure_ = name_of(*current_) + ": " + what;
  what = {};
  wait();  // never returns, as nothing runs after a failure
  std::abort();
}

void Block::run_ready() {
  next_ = 0;
  while (next_ < ready_.size() && failure_.empty()) {
    Fiber* fiber = ready_[next_]->fiber;
    if (fiber) {
      begin(*ready_[next_++]);
    } else {
      if (idle_.empty()) {
        fibers_.push_back(std::make_unique<Fiber>());
        idle_.push_back(fibers_.back().get());
      }
      fiber = idle_.back();
      idle_.pop_back();
    }
    switch_to(*fiber);
    if (fiber->idle) idle_.push_back(fiber);
  }
}

// ---- Order

void Block::begin_launch(const KernelCall& call, dim3 size, std::uint32_t launch, std::size_t shared) {
  call_ = &call;
  const unsigned count = size.x * size.y * size.z;
  threads_.resize(count);
  for (unsigned i = 0; i < count; ++i) {
    threads_[i].number = i;
    threads_[i].index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
  }
  facts_ = {.stack_bytes = Stack::size(),
            .call_begin = address(&call),
            .call_bytes = call.size(),
            .shared_area = address(shared_area),
            .shared_area_bytes = sizeof shared_area,
            .shared_begin = address(shared_memory()),
            .shared_bytes = shared,
            .launch = launch,
            .threads = count};
}

void Block::run(uint3 index, std::uint32_t number) {
  device_block_index = index;
  const auto count = static_cast<unsigned>(threads_.size());
  warp_barriers_.assign((count + kWarp - 1) / kWarp, 0);
  forget_suspicion();
  facts_.block = number;
  facts_.barriers = 0;
  facts_.warp_barriers = warp_barriers_.data();
  finished_ = 0;
  failure_.clear();
  for (Thread& thread : threads_) {
    thread.state = State::ready;
    thread.fiber = nullptr;
  }
  std::array<unsigned, 32> warps{};
  std::iota(warps.begin(), warps.end(), 0u);
  do {
    // Between two barriers, either each warp runs as far as it can before the next one starts, which reveals
    // most mistakes, or all threads of the block are mixed.
    if (order.below(4) != 0) {
      const std::span used(warps.data(), warp_barriers_.size());
      order.shuffle(used);
      for (const unsigned warp : used) run_until_barrier(warp * kWarp, std::min(kWarp, count - warp * kWarp));
    } else {
      run_until_barrier(0, count);
    }
    if (failure_.empty()) expect_nobody_waits_in_a_warp();
  } while (failure_.empty() && open_barrier());
  if (failure_.empty()) return;
  // Waiting fibers are abandoned; objects on their stacks are not destroyed.
  for (const auto& fiber : fibers_) {
    fiber->context = nullptr;
    fiber->idle = true;
  }
  idle_.clear();
  for (const auto& fiber : fibers_) idle_.push_back(fiber.get());
  throw Report(failure_);
}

void Block::run_until_barrier(unsigned first, unsigned count) {
  ready_.clear();
  for (unsigned i = first; i < first + count; ++i)
    if (threads_[i].state == State::ready) ready_.push_back(&threads_[i]);
  while (!ready_.empty() && failure_.empty()) {
    order.shuffle(std::span(ready_));
    run_ready();
    ready_.clear();
    if (!failure_.empty()) return;
    for (unsigned warp = first; warp < first + count; warp += kWarp)
      if (!resolve_warp(warp)) return;
  }
}

// ---- Meeting

std::uint64_t Block::meet_warp(Collective what, unsigned mask, std::uint64_t value, unsigned source,
                               std::source_location where) {
  settle();
  Thread& me = *current_;
  const unsigned first = me.number / kWarp * kWarp;
  const auto lanes = std::min<unsigned>(kWarp, static_cast<unsigned>(threads_.size()) - first);
  // A mask may include lanes that the block does not have.
  if (lanes < kWarp) mask &= (1u << lanes) - 1;
  if ((mask >> me.lane() & 1) == 0)
    throw Report(at(where) + ": the mask of a warp's operation lacks the lane itself");
  if (what == Collective::shuffle && (source >= lanes || (mask >> source & 1) == 0))
    throw Report(at(where) + ": a shuffle reads lane " + std::to_string(source) + ", which takes no part");
  me.what = what;
  me.mask = mask;
  me.value = value;
  me.source = source;
  me.where = where;
  me.state = State::in_warp;
  wait();
  return me.value;
}

// Resumes the lanes whose complete mask has arrived; false after a failure.
bool Block::resolve_warp(unsigned first) {
  const auto lanes = std::min<unsigned>(kWarp, static_cast<unsigned>(threads_.size()) - first);
  for (unsigned lane = 0; lane < lanes; ++lane) {
    const Thread& thread = threads_[first + lane];
    if (thread.state != State::in_warp) continue;
    bool whole = true;
    for (unsigned l = 0; l < lanes && whole; ++l)
      if ((thread.mask >> l & 1) != 0)
        whole = threads_[first + l].state == State::in_warp && threads_[first + l].mask == thread.mask;
    if (whole && !resolve_meeting(first, thread.mask)) return false;
  }
  return true;
}

bool Block::resolve_meeting(unsigned first, unsigned mask) {
  std::array<std::uint64_t, kWarp> brought{};
  const Thread* leader = nullptr;
  std::uint64_t ballot = 0;
  for (unsigned l = 0; l < kWarp; ++l) {
    if ((mask >> l & 1) == 0) continue;
    const Thread& thread = threads_[first + l];
    if (!leader) leader = &thread;
    if (thread.what != leader->what) {
      failure_ = "lanes of one mask do different operations of a warp: " + state_of(*leader) + ", " +
                 state_of(thread);
      return false;
    }
    brought[l] = thread.value;
    if (thread.value != 0) ballot |= std::uint64_t{1} << l;
  }
  // Shuffles and ballots exchange values; only __syncwarp() is a barrier for memory.
  if (leader->what == Collective::sync) ++warp_barriers_[first / kWarp];
  for (unsigned l = 0; l < kWarp; ++l) {
    if ((mask >> l & 1) == 0) continue;
    Thread& thread = threads_[first + l];
    if (thread.what == Collective::ballot) thread.value = ballot;
    if (thread.what == Collective::shuffle) thread.value = brought[thread.source];
    thread.state = State::ready;
    ready_.push_back(&thread);
  }
  return true;
}

void Block::expect_nobody_waits_in_a_warp() {
  const auto waits = std::ranges::find(threads_, State::in_warp, &Thread::state);
  if (waits == threads_.end()) return;
  const unsigned first = waits->number / kWarp * kWarp;
  failure_ = state_of(*waits) + " for ever, which lanes of its mask did not reach";
  for (unsigned l = 0; l < kWarp; ++l) {
    if ((waits->mask >> l & 1) == 0) continue;
    const Thread& other = threads_[first + l];
    if (other.state == State::in_warp && other.mask == waits->mask) continue;
    failure_ += ": " + state_of(other);
    return;
  }
}

int Block::meet_block(Collective what, bool value, std::source_location where) {
  settle();
  Thread& me = *current_;
  me.what = what;
  me.value = value;
  me.where = where;
  me.state = State::at_barrier;
  wait();
  return static_cast<int>(me.value);
}

// Opens the block's barrier if all threads wait at it. False if all threads have ended, and after a failure.
bool Block::open_barrier() {
  if (finished_ == threads_.size()) return false;
  const auto waits = std::ranges::find(threads_, State::at_barrier, &Thread::state);
  std::uint64_t brought_true = 0;
  for (const Thread& thread : threads_) {
    if (thread.state != State::at_barrier || thread.where.line() != waits->where.line() ||
        std::string_view(thread.where.file_name()) != waits->where.file_name()) {
      failure_ = state_of(*waits) + " for ever, which others did not reach: " + state_of(thread);
      return false;
    }
    brought_true += thread.value;
  }
  for (Thread& thread : threads_) {
    thread.value = brought_true;
    thread.state = State::ready;
  }
  ++facts_.barriers;
  return true;
}

unsigned Block::unfinished_lanes() const {
  const unsigned first = current_->number / kWarp * kWarp;
  unsigned result = 0;
  for (unsigned l = 0; l < kWarp && first + l < threads_.size(); ++l)
    if (threads_[first + l].state != State::finished) result |= 1u << l;
  return result;
}

// ---- Words

std::string Block::name_of(const Thread& thread) const {
  return "thread " + text_of(thread.index) + " of block " + text_of(device_block_index);
}

std::string Block::state_of(const Thread& thread) const {
  switch (thread.state) {
    case State::ready:
      return name_of(thread) + " has not begun";
    case State::finished:
      return name_of(thread) + " has ended";
    case State::at_barrier:
      return name_of(thread) + " waits at " + at(thread.where) + " in __syncthreads";
    case State::in_warp:
      break;
  }
  constexpr std::array kNames{"__syncwarp", "a vote", "a shuffle"};
  return name_of(thread) + " waits at " + at(thread.where) + " in " +
         kNames[static_cast<std::size_t>(thread.what)];
}

}  // namespace

Random order = [] {
  const char* const seed = std::getenv("CONCLAVE_CUDA_SEED");
  Random result;
  result.seed(seed ? std::strtoull(seed, nullptr, 10) : 1);
  return result;
}();

void set_seed(std::uint64_t seed) {
  const std::lock_guard lock(mutex);
  order.seed(seed);
}

std::string text_of(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) +
         ")";
}

void stop(std::string&& what) { block.stop(std::move(what)); }
void trap() { throw Report("__trap"); }
std::uint64_t meet_warp(Collective what, unsigned mask, std::uint64_t value, unsigned source,
                        std::source_location where) {
  return block.meet_warp(what, mask, value, source, where);
}
int meet_block(bool value, std::source_location where) {
  return block.meet_block(Collective::sync, value, where);
}
void* shared_memory() { return shared_begin(); }
unsigned lane() { return block.lane(); }
unsigned unfinished_lanes() { return block.unfinished_lanes(); }
void fence() { block.facts().fenced = true; }
unsigned threads_of_block() { return block.facts().threads; }

std::size_t static_shared_bytes(const std::string& kernel) {
  std::size_t bytes = 0;
  for (const SharedVariable& variable : shared_variables())
    if (!kernel.empty() && variable.kernel == kernel) bytes += variable.bytes;
  return bytes;
}

void run_grid(const cudaLaunchConfig_t& config, const KernelCall& call, const std::string& kernel,
              std::uint32_t launch) {
  ++counts.launches;
  device_block_size = config.blockDim;
  device_grid_size = config.gridDim;
  const dim3 grid = config.gridDim;
  const std::size_t count = std::size_t{grid.x} * grid.y * grid.z;
  constexpr std::size_t kMostShuffled = 1 << 20;
  std::vector<std::uint32_t> blocks(count <= kMostShuffled ? count : 0);
  std::iota(blocks.begin(), blocks.end(), 0u);
  order.shuffle(std::span(blocks));
  // Variables of the kernel itself, and of functions that it may call.
  std::vector<SharedVariable*> variables;
  for (SharedVariable& variable : shared_variables())
    if (variable.kernel.empty() || variable.kernel == kernel) variables.push_back(&variable);
  set_shared(config.dynamicSmemBytes);
  block.begin_launch(call, config.blockDim, launch, config.dynamicSmemBytes);
  try {
    for (std::size_t i = 0; i < count; ++i) {
      const auto number = blocks.empty() ? static_cast<std::uint32_t>(i) : blocks[i];
      if (i > 0) std::memset(shared_begin(), kPoison, config.dynamicSmemBytes);
      for (const SharedVariable* variable : variables)
        std::memset(reinterpret_cast<void*>(variable->begin), kPoison, variable->bytes);
      begin_block_traffic();
      block.run({number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y}, number);
#ifndef __SANITIZE_ADDRESS__
      const unsigned char* const end = shared_begin() + config.dynamicSmemBytes;
      if (!std::all_of(end, end + 64, [](unsigned char byte) { return byte == kPoison; }))
        throw Report("block " + text_of(device_block_index) + " wrote behind its " +
                     std::to_string(config.dynamicSmemBytes) + " bytes of dynamic shared memory");
#endif
    }
    check_guards();
  } catch (const Report& report) {
    throw Report("kernel " + (kernel.empty() ? "of unknown name" : readable_name(kernel)) + ": " +
                 report.what());
  }
}

}  // namespace conclave::emulator

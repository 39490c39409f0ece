// Checks the memory accesses of kernels. GCC's -fsanitize=thread inserts a call before every access; these
// functions replace those of its library. A .cu file compiled without the option runs, too, but unchecked.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <iterator>

#include "tests/cuda_emulator/internal.h"

namespace conclave::emulator {
namespace {

enum class Kind { read, write, atomic };

constexpr std::array kVerbs{"reads", "writes", "changes"};

// A pending check. Several threads may write the same value to the same place, for example to raise a flag.
// Whether the values are equal is known only after the second write.
struct Suspicion {
  std::uintptr_t at = 0;
  std::size_t bytes = 0;
  std::array<unsigned char, 16> before{};
  std::string what;
};
Suspicion suspicion;

// ---- Pieces of work: which earlier ones could, on a GPU, run at the same time as the running one

struct Work {
  std::uint32_t number = 0;
  std::size_t stream = 0;
  std::uint64_t ticket = 0;  // number within its stream
  std::string name;
};
// An access to many bytes, as of a copy, a fill or a library; too many to record each word.
struct Range {
  std::uintptr_t begin = 0, end = 0;
  bool writes = false;
  std::uint32_t work = 0;
};
constexpr std::size_t kHistory = 256;  // pieces of work to remember; older ones are not checked
std::deque<Work>& history = *new std::deque<Work>;
std::deque<Range>& ranges = *new std::deque<Range>;
std::vector<std::uint32_t>& beside = *new std::vector<std::uint32_t>;  // in ascending order
std::vector<Range>& ranges_beside = *new std::vector<Range>;
std::uint32_t first_beside = ~0u, work_count = 0;

bool is_beside(std::uint32_t work) {
  return work >= first_beside && std::ranges::binary_search(beside, work);
}

std::string name_of_work(std::uint32_t work) {
  const auto found = std::ranges::find(history, work, &Work::number);
  return found == history.end() ? "another stream's work" : found->name + " on another stream";
}

// ---- Accesses of threads

// Whether `then` precedes `now` on any GPU: accesses of two threads need a barrier between them, and those of
// two streams an event. Once the launch has called __threadfence(), its blocks count as ordered.
inline bool ordered(const Access& then, const Access& now, bool shared) {
  if (then.launch != now.launch) [[likely]]
    return shared || then.launch < first_beside || !is_beside(then.launch);
  if (then.block != now.block) return shared || running->fenced;
  if (then.thread == now.thread || then.barriers != now.barriers) return true;
  return then.thread / kWarp == now.thread / kWarp && then.warp_barriers != now.warp_barriers;
}

inline bool conflict(const Access& then, const Access& now, bool shared) {
  return !ordered(then, now, shared) && (then.bytes & now.bytes) != 0 && !(then.atomic && now.atomic);
}

inline void remember(Access& then, const Access& now) {
  const bool same = then.launch == now.launch && then.block == now.block && then.thread == now.thread &&
                    then.barriers == now.barriers && then.warp_barriers == now.warp_barriers &&
                    then.atomic == now.atomic;
  const std::uint8_t bytes = same ? then.bytes : 0;
  then = now;
  then.bytes |= bytes;
}

std::string race(const char* verb, const Access& then, const char* other, const std::string& where) {
  if (then.launch != running->launch)
    return std::string(verb) + " " + where + ", which " + name_of_work(then.launch) + " " + other +
           " with no event between them";
  return std::string(verb) + " " + where + ", which thread number " + std::to_string(then.thread) +
         " of block number " + std::to_string(then.block) + " " + other + " with no barrier between them";
}

template <class Where>
void look_for_races(Shadow& shadow, std::size_t offset, std::size_t size, std::size_t memory_bytes,
                    std::uintptr_t at, Kind kind, bool shared, Where&& where) {
  Access now{.launch = running->launch,
             .block = running->block,
             .thread = running->thread,
             .barriers = running->barriers,
             .warp_barriers = running->warp_barriers[running->thread / kWarp],
             .atomic = kind == Kind::atomic};
  const char* const verb = kVerbs[static_cast<std::size_t>(kind)];
  for (std::size_t word = offset / 4 * 4; word < offset + size; word += 4) {
    const std::size_t begin = std::max(word, offset), end = std::min(word + 4, offset + size);
    now.bytes = static_cast<std::uint8_t>(((1u << (end - begin)) - 1) << (begin - word));
    Cell& cell = shadow.at(word, memory_bytes);
    if (conflict(cell.write, now, shared)) {
      const std::string what = race(verb, cell.write, cell.write.atomic ? "changed" : "wrote", where());
      if (kind != Kind::write || cell.write.atomic || size > suspicion.before.size()) throw Report(what);
      suspicion = {at, size, {}, what};
      std::memcpy(suspicion.before.data(), reinterpret_cast<const void*>(at), size);
    }
    if (kind == Kind::read) {
      Access& first = cell.reads[0];
      const bool kept = first.launch == now.launch &&
                        (first.block != now.block || first.thread != now.thread) &&
                        !ordered(first, now, shared);
      remember(cell.reads[kept ? 1 : 0], now);
    } else {
      for (const Access& read : cell.reads)
        if (conflict(read, now, shared)) throw Report(race(verb, read, "read", where()));
      remember(cell.write, now);
    }
  }
}

// ---- Traffic

bool seen = false;  // some code of the program calls the hooks
bool counting = false;
std::uint64_t block_count = 0;
std::vector<Traffic>& traffic = *new std::vector<Traffic>;  // the last one is that of the running work

void count_sectors(Allocation& allocation, std::size_t offset, std::size_t size, Kind kind) {
  if (allocation.sectors.empty()) allocation.sectors.resize((allocation.bytes + kSector - 1) / kSector);
  Traffic& now = traffic.back();
  const auto touch = [](auto& last, auto current, std::size_t& bytes) {
    if (last != current) bytes += kSector;
    last = current;
  };
  for (std::size_t s = offset / kSector; s <= (offset + size - 1) / kSector; ++s) {
    Sector& sector = allocation.sectors[s];
    if (kind != Kind::write) {
      if (sector.written_by_launch != work_count) touch(sector.read_by_launch, work_count, now.read);
      if (sector.written_by_block != block_count)
        touch(sector.read_by_block, block_count, now.read_by_blocks);
    }
    if (kind != Kind::read) {
      touch(sector.written_by_launch, work_count, now.written);
      touch(sector.written_by_block, block_count, now.written_by_blocks);
    }
  }
}

SharedVariable* find_shared(std::uintptr_t at) {
  std::vector<SharedVariable>& variables = shared_variables();
  const auto behind = std::ranges::upper_bound(variables, at, {}, &SharedVariable::begin);
  if (behind == variables.begin()) return nullptr;
  SharedVariable& variable = *std::prev(behind);
  return at - variable.begin < variable.bytes ? &variable : nullptr;
}

Shadow dynamic_shadow;
std::array<Allocation*, 64> recent_allocations{};    // indexed by the lowest bits of the page number
std::array<SharedVariable*, 64> recent_variables{};  // indexed by some bits of the address

void look(std::uintptr_t at, std::size_t size, Kind kind) {
  const Running& me = *running;
  if (at - me.stack_begin < me.stack_bytes || at - me.call_begin < me.call_bytes) return;
  const auto start = [&] {
    return std::string(kVerbs[static_cast<std::size_t>(kind)]) + " " + std::to_string(size) + " bytes: ";
  };
  const auto look_at_variable = [&](SharedVariable& variable) {
    const std::size_t offset = at - variable.begin;
    const auto where = [&] {
      return "offset " + std::to_string(offset) + " of the " + std::to_string(variable.bytes) + " bytes of " +
             variable.name;
    };
    if (offset + size > variable.bytes) throw Report(start() + where());
    look_for_races(variable.shadow, offset, size, variable.bytes, at, kind, true, where);
  };
  SharedVariable*& recent_variable = recent_variables[at / 256 % recent_variables.size()];
  if (recent_variable && at - recent_variable->begin < recent_variable->bytes)
    return look_at_variable(*recent_variable);
  Allocation*& recent = recent_allocations[at / 4096 % recent_allocations.size()];
  const bool found =
      recent && recent->live && at >= recent->begin && at + size <= recent->begin + recent->bytes;
  if (found || in_device_memory(at)) {
    if (!found) recent = find_allocation(at);
    Allocation* const allocation = recent;
    if (!allocation || !allocation->live || at < allocation->begin ||
        at + size > allocation->begin + allocation->bytes)
      throw Report(start() + describe(at));
    for (const Range& range : ranges_beside)
      if (at < range.end && range.begin < at + size && (range.writes || kind != Kind::read))
        throw Report(std::string(kVerbs[static_cast<std::size_t>(kind)]) + " " + describe(at) + ", which " +
                     name_of_work(range.work) + (range.writes ? " wrote" : " read") +
                     " with no event between them");
    look_for_races(allocation->shadow, at - allocation->begin, size, allocation->bytes, at, kind, false,
                   [&] { return describe(at); });
    if (counting) [[unlikely]]
      count_sectors(*allocation, at - allocation->begin, size, kind);
    return;
  }
  if (at - me.shared_area < me.shared_area_bytes) {
    const std::size_t offset = at - me.shared_begin;
    if (at < me.shared_begin || offset + size > me.shared_bytes)
      throw Report(start() + "offset " + std::to_string(static_cast<std::ptrdiff_t>(offset)) + " of " +
                   std::to_string(me.shared_bytes) + " bytes of dynamic shared memory");
    look_for_races(dynamic_shadow, offset, size, kMostShared, at, kind, true,
                   [&] { return "offset " + std::to_string(offset) + " of dynamic shared memory"; });
    return;
  }
  if (in_program(at)) {
    if (SharedVariable* const variable = find_shared(at)) look_at_variable(*(recent_variable = variable));
    return;
  }
  if (!in_pinned_memory(at, size)) throw Report(start() + "this is not the device's memory but the host's");
}

inline void see(const volatile void* memory, std::size_t size, Kind kind) {
  if (!running) [[likely]]
    return;
  std::string wrong;
  try {
    settle();
    look(reinterpret_cast<std::uintptr_t>(memory), size, kind);
    return;
  } catch (const Report& report) {
    wrong = report.what();
  }
  stop(std::move(wrong));  // outside the handler, as stop() never returns and the exception would stay alive
}

}  // namespace

void settle() {
  if (suspicion.bytes == 0) return;
  const std::size_t bytes = std::exchange(suspicion.bytes, 0);
  if (std::memcmp(suspicion.before.data(), reinterpret_cast<const void*>(suspicion.at), bytes) != 0)
    throw Report(suspicion.what);
}

std::uint32_t begin_work(std::size_t stream, std::uint64_t ticket, const std::vector<std::uint64_t>& before,
                         const std::string& name) {
  if (history.size() == kHistory) history.pop_front();
  beside.clear();
  for (const Work& work : history)
    if (work.stream >= before.size() || before[work.stream] < work.ticket) beside.push_back(work.number);
  first_beside = beside.empty() ? ~0u : beside.front();
  history.push_back({++work_count, stream, ticket, name});
  while (!ranges.empty() && ranges.front().work < history.front().number) ranges.pop_front();
  ranges_beside.clear();
  std::ranges::copy_if(ranges, std::back_inserter(ranges_beside),
                       [](const Range& range) { return is_beside(range.work); });
  if (counting) traffic.push_back({.what = name});
  begin_block_traffic();
  return work_count;
}

void see_range(const void* memory, std::size_t bytes, bool writes, bool is_traffic) {
  const Range now{
      .begin = address(memory), .end = address(memory) + bytes, .writes = writes, .work = work_count};
  const auto complain = [&](std::uint32_t work, bool wrote) {
    throw Report(history.back().name + (writes ? " writes " : " reads ") + describe(now.begin) + ", which " +
                 name_of_work(work) + (wrote ? " wrote" : " read") + " with no event between them");
  };
  for (const Range& range : ranges_beside)
    if (now.begin < range.end && range.begin < now.end && (range.writes || writes))
      complain(range.work, range.writes);
  Allocation& allocation = *find_allocation(now.begin);
  if (!beside.empty() && allocation.shadow.used())
    for (std::uintptr_t at = now.begin / 4 * 4; at < now.end; at += 4) {
      const std::uintptr_t begin = std::max(at, now.begin), end = std::min(at + 4, now.end);
      const unsigned bytes = ((1u << (end - begin)) - 1) << (begin - at);
      const Cell& cell = allocation.shadow.at(at - allocation.begin, allocation.bytes);
      if ((cell.write.bytes & bytes) != 0 && is_beside(cell.write.launch)) complain(cell.write.launch, true);
      for (const Access& read : cell.reads)
        if (writes && (read.bytes & bytes) != 0 && is_beside(read.launch)) complain(read.launch, false);
    }
  ranges.push_back(now);
  if (counting && is_traffic)
    count_sectors(allocation, now.begin - allocation.begin, bytes, writes ? Kind::write : Kind::read);
}

void begin_block_traffic() { ++block_count; }

bool count_traffic(bool on) {
  const std::lock_guard lock(mutex);
  counting = on;
  return seen;
}

std::vector<Traffic> take_traffic() {
  const std::lock_guard lock(mutex);
  return std::exchange(traffic, {});
}

void forget_suspicion() { suspicion.bytes = 0; }

void see_atomic(const void* memory, std::size_t size) {
  if (!running) return;
  settle();
  look(address(memory), size, Kind::atomic);
}

}  // namespace conclave::emulator

// ---- The hooks

using conclave::emulator::Kind;
using conclave::emulator::see;

extern "C" {

void __tsan_init() { conclave::emulator::seen = true; }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_read_range(void* at, std::size_t bytes) { see(at, bytes, Kind::read); }
void __tsan_write_range(void* at, std::size_t bytes) { see(at, bytes, Kind::write); }

#define CONCLAVE_HOOKS(bytes)                                                 \
  void __tsan_read##bytes(void* at) { see(at, bytes, Kind::read); }           \
  void __tsan_write##bytes(void* at) { see(at, bytes, Kind::write); }         \
  void __tsan_unaligned_read##bytes(void* at) { see(at, bytes, Kind::read); } \
  void __tsan_unaligned_write##bytes(void* at) { see(at, bytes, Kind::write); }
CONCLAVE_HOOKS(1)
CONCLAVE_HOOKS(2)
CONCLAVE_HOOKS(4)
CONCLAVE_HOOKS(8)
CONCLAVE_HOOKS(16)
#undef CONCLAVE_HOOKS

// Atomics of host code in the same file, as in a shared_ptr or a mutex.
#define CONCLAVE_ATOMICS(bits, type)                                                                         \
  type __tsan_atomic##bits##_load(const volatile type* at, int) { return __atomic_load_n(at, 5); }           \
  void __tsan_atomic##bits##_store(volatile type* at, type value, int) { __atomic_store_n(at, value, 5); }   \
  type __tsan_atomic##bits##_exchange(volatile type* at, type value, int) {                                  \
    return __atomic_exchange_n(at, value, 5);                                                                \
  }                                                                                                          \
  type __tsan_atomic##bits##_fetch_add(volatile type* at, type value, int) {                                 \
    return __atomic_fetch_add(at, value, 5);                                                                 \
  }                                                                                                          \
  type __tsan_atomic##bits##_fetch_sub(volatile type* at, type value, int) {                                 \
    return __atomic_fetch_sub(at, value, 5);                                                                 \
  }                                                                                                          \
  type __tsan_atomic##bits##_fetch_and(volatile type* at, type value, int) {                                 \
    return __atomic_fetch_and(at, value, 5);                                                                 \
  }                                                                                                          \
  type __tsan_atomic##bits##_fetch_or(volatile type* at, type value, int) {                                  \
    return __atomic_fetch_or(at, value, 5);                                                                  \
  }                                                                                                          \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile type* at, type* expected, type value, int,      \
                                                    int) {                                                   \
    return __atomic_compare_exchange_n(at, expected, value, false, 5, 5);                                    \
  }                                                                                                          \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile type* at, type* expected, type value, int, int) { \
    return __atomic_compare_exchange_n(at, expected, value, true, 5, 5);                                     \
  }
CONCLAVE_ATOMICS(8, std::uint8_t)
CONCLAVE_ATOMICS(16, std::uint16_t)
CONCLAVE_ATOMICS(32, std::uint32_t)
CONCLAVE_ATOMICS(64, std::uint64_t)
#undef CONCLAVE_ATOMICS

}  // extern "C"

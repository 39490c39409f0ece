#include "tests/ranks/allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

thread_local std::size_t count = 0;
thread_local bool is_spared = false;  // from failures
std::atomic<std::size_t> until_failure = 0;
std::atomic<bool> has_failed = false;

bool is_to_fail() {
  std::size_t left = until_failure;
  while (left > 0 && !is_spared && !until_failure.compare_exchange_weak(left, left - 1)) {
  }
  return left == 1 && !is_spared;
}

}  // namespace

// Not inlined: GCC 12 would otherwise warn that malloc and delete, or new and free, do not match.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++count;
  if (until_failure > 0 && is_to_fail()) {
    has_failed = true;
    throw std::bad_alloc();
  }
  if (void* const memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

std::size_t conclave::allocations() { return count; }

bool conclave::fail_allocation(std::size_t count) {
  is_spared = true;
  until_failure = count;
  return has_failed.exchange(false);
}

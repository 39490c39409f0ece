// Counts what goes through operator new; here and not in unit_tests, where the sanitizers have their own.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <new>
#include <vector>

#include "parallel/moe/route_cache.h"

namespace {

thread_local std::size_t allocations = 0;

}  // namespace

// Not inlined: GCC 12 would see malloc and delete, or new and free, and call them mismatched.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* const memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace conclave {
namespace {

TEST_CASE("a route cache allocates nothing once it is made", "[route_cache]") {
  RouteCache cache(64 << 10, 8, 16);
  const Tensor features = Tensor::zeros({16, 128});
  const std::vector<float> scores(8 * 16, 1.0f);
  std::vector<float> back(scores.size());
  const std::size_t before = allocations;
  Index hits = 0;
  for (std::size_t i = 0; i < 2000; ++i) {
    features.data<float>()[i] = 1;
    const RouteCache::Key key = RouteCache::key(1, features);
    cache.insert(key, scores);
    hits += cache.find(key, back);
    cache.find({i, i}, back);
    if (i == 1000) cache.clear();
  }
  cache.reset_statistics();
  const std::size_t after = allocations;
  CHECK(after == before);
  CHECK(hits == 2000);
  CHECK(cache.statistics().bytes > cache.statistics().capacity * 9 / 10);  // it was full, and evicted
  CHECK_FALSE(std::vector<float>(1000).empty());
  CHECK(allocations > after);  // it does count
}

}  // namespace
}  // namespace conclave

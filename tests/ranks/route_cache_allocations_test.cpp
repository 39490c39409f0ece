#include <catch2/catch.hpp>
#include <vector>

#include "parallel/moe/route_cache.h"
#include "tests/ranks/allocations.h"

namespace conclave {
namespace {

TEST_CASE("a route cache allocates nothing once it is made", "[route_cache]") {
  RouteCache cache(64 << 10, 8, 16);
  const Tensor features = Tensor::zeros({16, 128});
  const std::vector<float> scores(8 * 16, 1.0f);
  std::vector<float> back(scores.size());
  const std::size_t before = allocations();
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
  const std::size_t after = allocations();
  CHECK(after == before);
  CHECK(hits == 2000);
  CHECK(cache.statistics().bytes > cache.statistics().capacity * 9 / 10);  // the cache was full and evicted
  CHECK_FALSE(std::vector<float>(1000).empty());
  CHECK(allocations() > after);  // the counter works
}

}  // namespace
}  // namespace conclave

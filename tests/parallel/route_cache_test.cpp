#include "parallel/moe/route_cache.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <limits>
#include <list>
#include <utility>
#include <vector>

#include "core/random.h"
#include "tests/core/values.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

constexpr std::size_t kMebibyte = std::size_t{1} << 20;
constexpr std::size_t kLine = 64 + 4;  // bytes of a line and its part of the index

using CachedScores = std::vector<float>;

RouteCache::Key key_of(std::uint64_t number) {
  return {number * 0x9E3779B97F4A7C15u, number * 0xC2B2AE3D27D4EB4Fu};
}

// `count` scores that differ for each `number`.
CachedScores scores_of(std::uint64_t number, std::size_t count) {
  CachedScores scores(count);
  for (std::size_t i = 0; i < count; ++i) scores[i] = static_cast<float>(number * 1000 + i);
  return scores;
}

// The scores in the cache under `key`; empty if there are none.
CachedScores found(RouteCache& cache, const RouteCache::Key& key, std::size_t count) {
  CachedScores scores(count, -1);
  if (cache.find(key, scores)) return scores;
  CHECK(scores == CachedScores(count, -1));  // a miss writes nothing
  return {};
}

TEST_CASE("a hit gives exactly what was inserted, for any number of rows", "[route_cache]") {
  for (const Index experts : {1, 2, 7, 8, 16, 61}) {
    RouteCache cache(kMebibyte, experts, 40);
    for (std::uint64_t rows = 1; rows <= 40; ++rows)
      cache.insert(key_of(rows), scores_of(rows, rows * static_cast<std::size_t>(experts)));
    for (std::uint64_t rows = 1; rows <= 40; ++rows) {
      const CachedScores expected = scores_of(rows, rows * static_cast<std::size_t>(experts));
      CHECK(found(cache, key_of(rows), expected.size()) == expected);
    }
    CHECK(cache.statistics().hits == 40);
    CHECK(cache.statistics().evictions == 0);
  }
}

TEST_CASE("cached scores keep their bits, also NaN", "[route_cache]") {
  RouteCache cache(kMebibyte, 4, 1);
  const CachedScores scores{-0.0f, std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::denorm_min(),
                            -std::numeric_limits<float>::infinity()};
  cache.insert(key_of(1), scores);
  CachedScores back(4);
  REQUIRE(cache.find(key_of(1), back));
  CHECK(std::memcmp(back.data(), scores.data(), sizeof(float) * 4) == 0);
}

TEST_CASE("equal features have the same key at any address", "[route_cache]") {
  const Tensor batch = random_values({20, 16}, 1, DType::f32);
  const RouteCache::Key key = RouteCache::key(7, batch.rows(5, 9));
  CHECK(key == RouteCache::key(7, batch.rows(5, 9).clone()));
  CHECK(key != RouteCache::key(7, batch.rows(6, 10)));
  CHECK(RouteCache::key(7, batch.rows(3, 3)) == RouteCache::key(7, batch.rows(4, 4)));
}

TEST_CASE("another router, shape, type or a single flipped bit gives another key", "[route_cache]") {
  const Tensor x = random_values({3, 8}, 1, DType::f32);
  const RouteCache::Key key = RouteCache::key(1, x);
  CHECK(key != RouteCache::key(2, x));
  CHECK(key != RouteCache::key(std::uint64_t{1} << 63 | 1, x));
  CHECK(key != RouteCache::key(1, x.reshape({8, 3})));
  CHECK(key != RouteCache::key(1, x.reshape({24})));
  CHECK(key != RouteCache::key(1, x.reshape({3, 8, 1})));
  CHECK(key != RouteCache::key(1, Tensor::borrow(x.raw(), x.shape(), DType::i32)));
  CHECK(RouteCache::key(1, Tensor::zeros({2, 8})) != RouteCache::key(1, Tensor::zeros({3, 8})));
  CHECK(RouteCache::key(1, Tensor::zeros({0, 8})) != RouteCache::key(1, Tensor::zeros({0, 9})));

  std::vector<RouteCache::Key> keys{key};
  auto* bytes = static_cast<unsigned char*>(x.raw());
  for (std::size_t bit = 0; bit < x.bytes() * 8; ++bit) {
    const auto flip = static_cast<unsigned char>(1u << bit % 8);
    bytes[bit / 8] ^= flip;
    keys.push_back(RouteCache::key(1, x));
    bytes[bit / 8] ^= flip;
  }
  CHECK(RouteCache::key(1, x) == key);
  std::ranges::sort(keys, {}, [](const RouteCache::Key& k) { return std::pair(k.low, k.high); });
  CHECK(std::ranges::adjacent_find(keys) == keys.end());
}

TEST_CASE("keys that differ in one half only are different entries", "[route_cache]") {
  RouteCache cache(kMebibyte, 2, 1);
  const std::vector<RouteCache::Key> keys{{1, 1}, {1, 2}, {2, 1}, {1, std::uint64_t{1} << 63 | 1}};
  for (std::size_t i = 0; i < keys.size(); ++i) cache.insert(keys[i], scores_of(i, 2));
  for (std::size_t i = 0; i < keys.size(); ++i) CHECK(found(cache, keys[i], 2) == scores_of(i, 2));
  CHECK(found(cache, {2, 2}, 2).empty());
}

TEST_CASE("a full cache drops what was used least recently", "[route_cache]") {
  RouteCache cache(3 * kLine, 8, 1);
  for (const std::uint64_t number : {1, 2, 3}) cache.insert(key_of(number), scores_of(number, 8));
  CHECK(found(cache, key_of(1), 8) == scores_of(1, 8));  // uses entry 1, so entry 2 is now the oldest
  cache.insert(key_of(4), scores_of(4, 8));
  CHECK(found(cache, key_of(2), 8).empty());
  cache.insert(key_of(3), scores_of(30, 8));  // replacing an entry also counts as a use
  cache.insert(key_of(5), scores_of(5, 8));
  CHECK(found(cache, key_of(1), 8).empty());
  CHECK(found(cache, key_of(3), 8) == scores_of(30, 8));
  CHECK(found(cache, key_of(4), 8) == scores_of(4, 8));
  CHECK(found(cache, key_of(5), 8) == scores_of(5, 8));
  CHECK(cache.statistics().evictions == 2);
}

TEST_CASE("an entry evicts others until it fits, up to the whole cache", "[route_cache]") {
  RouteCache cache(3 * kLine, 2, 19);  // three lines hold at most 8 + 15 + 15 scores
  for (std::uint64_t number = 0; number < 3; ++number) cache.insert(key_of(number), scores_of(number, 2));
  cache.insert(key_of(3), scores_of(3, 10));  // needs two lines
  CHECK(found(cache, key_of(2), 2) == scores_of(2, 2));
  cache.insert(key_of(4), scores_of(4, 38));
  CHECK(found(cache, key_of(4), 38) == scores_of(4, 38));
  CHECK(cache.statistics().entries == 1);
  CHECK(cache.statistics().evictions == 4);
  CHECK(cache.statistics().bytes == cache.statistics().capacity);
  cache.insert(key_of(4), scores_of(5, 4));
  CHECK(found(cache, key_of(4), 4) == scores_of(5, 4));
  CHECK(cache.statistics().evictions == 4);  // replacing an entry is not an eviction
}

// Reference implementation of the cache: a list of entries in the order of use, the latest first.
struct WrittenCache {
  struct Entry {
    std::uint64_t number;
    CachedScores scores;
  };

  static std::size_t lines(const CachedScores& scores) {
    return 1 + (std::max<std::size_t>(scores.size(), 8) - 8 + 14) / 15;
  }
  auto at(std::uint64_t number) { return std::ranges::find(entries, number, &Entry::number); }

  CachedScores find(std::uint64_t number) {
    const auto entry = at(number);
    if (entry == entries.end()) return {};
    entries.splice(entries.begin(), entries, entry);
    return entries.front().scores;
  }
  void insert(std::uint64_t number, const CachedScores& scores) {
    if (const auto entry = at(number); entry != entries.end()) {
      used -= lines(entry->scores);
      entries.erase(entry);
    }
    for (; used + lines(scores) > capacity; ++evictions) {
      used -= lines(entries.back().scores);
      entries.pop_back();
    }
    used += lines(scores);
    entries.push_front({number, scores});
  }

  std::size_t capacity;
  std::size_t used = 0;
  Index evictions = 0;
  std::list<Entry> entries = {};
};

TEST_CASE("a cache agrees with a list of the newest entries for random operations", "[route_cache]") {
  for (std::uint32_t run = 0; run < 60; ++run) {
    const RandomStream random{.seed = 5, .step = run, .tensor = 0};
    std::uint64_t drawn = 0;
    const auto below = [&](std::uint32_t n) { return static_cast<std::size_t>(random.below(n, drawn++)); };
    const std::size_t experts = 1 + below(20), most_rows = run % 3 == 0 ? 1 : 1 + below(30);
    WrittenCache model{.capacity = WrittenCache::lines(CachedScores(experts * most_rows)) + below(200)};
    RouteCache cache(model.capacity * kLine + below(kLine), static_cast<Index>(experts),
                     static_cast<Index>(most_rows));
    REQUIRE(cache.statistics().capacity == model.capacity * 64);
    const auto texts = static_cast<std::uint32_t>(1 + below(300));
    std::vector<std::size_t> sizes(texts);  // number of scores last inserted under each key
    Index hits = 0, lookups = 0;
    for (int action = 0; action < 1500; ++action) {
      const std::uint64_t text = below(texts);
      if (below(1000) == 0) {
        cache.clear();
        model = {.capacity = model.capacity, .evictions = model.evictions};
      } else if (below(2) == 0) {
        sizes[text] = (1 + below(static_cast<std::uint32_t>(most_rows))) * experts;
        const CachedScores scores = scores_of(text + static_cast<std::uint64_t>(action), sizes[text]);
        cache.insert(key_of(text), scores);
        model.insert(text, scores);
      } else {
        const CachedScores expected = model.find(text);
        REQUIRE(found(cache, key_of(text), sizes[text]) == expected);
        ++lookups;
        hits += !expected.empty();
      }
      const RouteCacheStatistics statistics = cache.statistics();
      REQUIRE(statistics.bytes == model.used * 64);
      REQUIRE(statistics.bytes <= statistics.capacity);
      REQUIRE(statistics.entries == static_cast<Index>(model.entries.size()));
      REQUIRE(statistics.evictions == model.evictions);
    }
    CHECK(cache.statistics().hits == hits);
    CHECK(cache.statistics().hits + cache.statistics().misses == lookups);
    for (std::uint64_t text = 0; text < texts; ++text)
      CHECK(found(cache, key_of(text), sizes[text]) == model.find(text));
  }
}

TEST_CASE("a cleared cache is empty, has all its room, and keeps its statistics", "[route_cache]") {
  RouteCache cache(2 * kLine, 3, 1);
  for (const std::uint64_t number : {1, 2, 3}) cache.insert(key_of(number), scores_of(number, 3));
  found(cache, key_of(3), 3);
  cache.clear();
  CHECK(found(cache, key_of(3), 3).empty());
  CHECK(cache.statistics().entries == 0);
  CHECK(cache.statistics().bytes == 0);
  CHECK(cache.statistics().hits == 1);
  CHECK(cache.statistics().evictions == 1);
  for (const std::uint64_t number : {4, 5}) cache.insert(key_of(number), scores_of(number, 3));
  CHECK(found(cache, key_of(4), 3) == scores_of(4, 3));
  CHECK(cache.statistics().evictions == 1);
}

TEST_CASE("resetting the statistics keeps the entries", "[route_cache]") {
  RouteCache cache(kMebibyte, 3, 1);
  cache.insert(key_of(1), scores_of(1, 3));
  for (const std::uint64_t number : {1, 1, 1, 2}) found(cache, key_of(number), 3);
  CHECK(cache.statistics().hits == 3);
  CHECK(cache.statistics().misses == 1);
  CHECK(cache.statistics().bytes == 64);
  CHECK(cache.statistics().capacity <= kMebibyte);
  CHECK(cache.statistics().capacity > kMebibyte * 9 / 10);
  cache.reset_statistics();
  CHECK(cache.statistics().hits + cache.statistics().misses == 0);
  CHECK(cache.statistics().entries == 1);
  CHECK(found(cache, key_of(1), 3) == scores_of(1, 3));
}

TEST_CASE("an impossible cache size is refused with the key to change", "[route_cache]") {
  CHECK_THROWS_WITH(RouteCache(std::size_t{1} << 50, 8, 128),
                    StartsWith("moe.route_cache_mib: 1024.0 TiB are more than the ") &&
                        Contains(" of memory available; set it to less than "));
  CHECK_THROWS_WITH(
      RouteCache(2 * kMebibyte, 4096, 512),
      "moe.route_cache_mib: 2.0 MiB are too few for the scores of 512 rows for 4096 experts; set "
      "it to 10 or more");
  CHECK_NOTHROW(RouteCache(10 * kMebibyte, 4096, 512));
  CHECK_THROWS_WITH(RouteCache(0, 8, 1), StartsWith("moe.route_cache_mib: 0 B are too few"));
  CHECK_THROWS_AS(RouteCache(kMebibyte, 0, 1), Error);
  CHECK_THROWS_AS(RouteCache(kMebibyte, 8, 0), Error);
  CHECK_THROWS_AS(RouteCache(kMebibyte, Index{1} << 40, Index{1} << 40), Error);
}

TEST_CASE("scores that are not whole rows or differ in number are refused", "[route_cache]") {
  RouteCache cache(kMebibyte, 8, 4);
  for (const std::size_t count : {0, 7, 9, 40})
    CHECK_THROWS_WITH(cache.insert(key_of(1), CachedScores(count)),
                      fmt::format("route cache: {} scores are not 1 to 4 rows for 8 experts", count));
  CHECK(cache.statistics().entries == 0);
  for (const std::size_t kept : {8, 16, 24, 32}) {
    cache.insert(key_of(1), scores_of(1, kept));
    for (std::size_t count = 0; count <= 48; ++count) {
      CachedScores scores(count);
      if (count != kept)
        CHECK_THROWS_WITH(
            cache.find(key_of(1), scores),
            fmt::format("route cache: {} scores are looked up, but the entry has another number of scores",
                        count));
    }
    CHECK(found(cache, key_of(1), kept) == scores_of(1, kept));
  }
}

TEST_CASE("features with gaps between their rows have no key", "[route_cache]") {
  CHECK_THROWS_WITH(RouteCache::key(1, Tensor::zeros({4, 6}).slice(1, 0, 3)),
                    "route cache: features [4, 3] have gaps between their rows");
}

}  // namespace
}  // namespace conclave

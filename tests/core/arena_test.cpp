#include <catch2/catch.hpp>
#include <cstdint>

#include "core/arena.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST_CASE("every allocation starts on a cache line and overlaps no other", "[arena]") {
  Arena arena("test");
  std::uintptr_t end = 0;
  for (const Index count : {1, 3, 16, 17, 0, 1000, 5}) {
    const Tensor x = arena.empty({count}, DType::u8);
    const auto begin = reinterpret_cast<std::uintptr_t>(x.raw());
    CHECK(begin % 64 == 0);
    CHECK(begin >= end);
    end = begin + static_cast<std::uintptr_t>(count);
  }
}

TEST_CASE("an arena remembers its peak when memory is given back", "[arena]") {
  Arena arena("test");
  arena.allocate(1000);
  const auto mark = arena.mark();
  arena.allocate(5 * kMiB);
  const std::size_t peak = arena.used();
  arena.release(mark);
  CHECK(arena.used() == mark.tensors);
  CHECK(arena.peak() == peak);
  arena.reset();
  CHECK(arena.used() == 0);
  CHECK(arena.peak() == peak);
}

TEST_CASE("memory that is given back is allocated again", "[arena]") {
  Arena arena("test");
  arena.allocate(100);
  void* first = nullptr;
  {
    ArenaScope scope(arena);
    first = arena.allocate(64);
    arena.allocate(kMiB);
  }
  CHECK(arena.allocate(64) == first);
}

TEST_CASE("a sealed arena has room for the planned peak and no more", "[arena]") {
  Arena arena("activations");
  const auto step = [&] {
    arena.reset();
    arena.empty({100});
    arena.empty({3, 7}, DType::f64);
    arena.zeros({1000});
  };
  step();
  arena.seal();
  CHECK(arena.sealed());
  CHECK(arena.capacity() >= arena.peak());
  CHECK(arena.capacity() < arena.peak() + 64);
  for (int i = 0; i < 3; ++i) CHECK_NOTHROW(step());
  CHECK_THROWS_WITH(arena.allocate(64), StartsWith("arena activations: 64 B more do not fit, 4.5 KiB of") &&
                                            Contains("the planning run did not see a step this large"));
  CHECK_NOTHROW(step());  // a refused allocation takes no memory
}

TEST_CASE("slack gives an arena room beyond its peak", "[arena]") {
  Arena arena("test");
  arena.allocate(1000);
  arena.seal(9 * kMiB);  // more than the memory committed so far
  arena.reset();
  auto* bytes = static_cast<unsigned char*>(arena.allocate(9 * kMiB));
  bytes[0] = bytes[9 * kMiB - 1] = 1;
  CHECK_THROWS_AS(arena.allocate(kMiB), Error);
}

TEST_CASE("an unsealed arena at its limit says how much does not fit", "[arena]") {
  Arena arena("parameters", 16 * kMiB);
  CHECK_NOTHROW(arena.allocate(10 * kMiB));
  CHECK_THROWS_WITH(
      arena.allocate(7 * kMiB),
      "arena parameters: 7.0 MiB more do not fit, 10.0 MiB of 16.0 MiB are in use; this machine "
      "has no more memory");
  CHECK_THROWS_AS(arena.allocate(SIZE_MAX - 100), Error);
  CHECK_THROWS_AS(arena.empty({Index{1} << 61}, DType::f64), Error);
}

TEST_CASE("zeros clears memory that was used before", "[arena]") {
  Arena arena("test");
  arena.empty({4096}).fill(7);
  arena.reset();
  for (const float value : arena.zeros({4096}).span<float>()) REQUIRE(value == 0);
}

TEST_CASE("bytes are shown in the unit that fits", "[arena]") {
  CHECK(format_bytes(0) == "0 B");
  CHECK(format_bytes(1023) == "1023 B");
  CHECK(format_bytes(1536) == "1.5 KiB");
  CHECK(format_bytes(12 * kMiB + kMiB / 4) == "12.2 MiB");
  CHECK(format_bytes(std::size_t{3} << 40) == "3.0 TiB");
}

}  // namespace
}  // namespace conclave

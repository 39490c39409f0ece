#include "recipes/service/gate.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <thread>
#include <vector>

namespace conclave::service {
namespace {

void until_waiting(Gate& gate, std::size_t passes) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (gate.waiting() < passes && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  REQUIRE(gate.waiting() == passes);
}

TEST_CASE("a gate never admits more than its bound, and admits all in the end", "[service]") {
  Gate gate(8, 8);
  std::atomic<std::int64_t> taken = 0, most = 0, passed = 0;
  std::vector<std::thread> threads;
  for (int number = 0; number < 8; ++number)
    threads.emplace_back([&, number] {
      for (std::int64_t i = 0; i < 50; ++i) {
        const std::int64_t takes = 1 + (number + i) % 5;
        const Gate::Pass pass(gate, takes);
        const std::int64_t now = taken += takes;
        for (std::int64_t seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
        }
        std::this_thread::yield();
        taken -= takes;
        ++passed;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(most <= 8);
  CHECK(passed == 8 * 50);
}

TEST_CASE("a request above the bound is admitted alone and is not overtaken", "[service]") {
  Gate gate(8, 2);
  std::atomic<int> in = 0;
  std::thread large, small;
  {
    const Gate::Pass pass(gate, 1);
    large = std::thread([&] {
      const Gate::Pass all(gate, 100);
      ++in;
    });
    until_waiting(gate, 1);
    small = std::thread([&] {
      const Gate::Pass some(gate, 1);
      ++in;
    });
    until_waiting(gate, 2);
    CHECK(in == 0);
    CHECK_THROWS_AS(Gate::Pass(gate, 1), Refusal);  // the limit of waiters is reached
  }
  large.join();
  small.join();
  CHECK(in == 2);
  const Gate::Pass again(gate, 8);
}

TEST_CASE("a closed gate admits nothing and ends all waits", "[service]") {
  Gate gate(8, 2);
  std::atomic<int> refused = 0;
  std::thread waits;
  {
    const Gate::Pass pass(gate, 8);
    waits = std::thread([&] {
      try {
        const Gate::Pass other(gate, 1);
      } catch (const Refusal&) {
        ++refused;
      }
    });
    until_waiting(gate, 1);
    gate.close();
    waits.join();
  }
  CHECK(refused == 1);
  CHECK_THROWS_AS(Gate::Pass(gate, 1), Refusal);
}

}  // namespace
}  // namespace conclave::service

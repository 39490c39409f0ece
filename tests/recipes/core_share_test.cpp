// Threads per rank for ranks on separate, equal and overlapping sets of cores; threads bound to cores.
#include "recipes/training/core_share.h"

#include <omp.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <thread>
#include <vector>

namespace conclave {
namespace {

TEST_CASE("ranks use their own cores and divide shared ones", "[threads]") {
  const auto threads = [](const std::vector<std::string>& ranks) {
    std::vector<std::int64_t> found;
    for (const std::string& rank : ranks) found.push_back(threads_for(rank, ranks));
    return found;
  };
  CHECK(threads({"11111111"}) == std::vector<std::int64_t>{8});
  CHECK(threads({"11110000", "00001111"}) == std::vector<std::int64_t>{4, 4});
  CHECK(threads({"1111", "00001111"}) == std::vector<std::int64_t>{4, 4});
  CHECK(threads({"11111111", "11111111"}) == std::vector<std::int64_t>{4, 4});
  CHECK(threads({"111", "111"}) == std::vector<std::int64_t>{1, 1});
  CHECK(threads({"11", "11", "11"}) == std::vector<std::int64_t>{1, 1, 1});
  CHECK(threads({"111111", "111111", "111111"}) == std::vector<std::int64_t>{2, 2, 2});
  CHECK(threads({"1111", "0011"}) == std::vector<std::int64_t>{3, 1});
}

TEST_CASE("this process may run on some core", "[threads]") {
  const std::string cores = cores_of_process();
  CHECK(cores.find('1') != std::string::npos);
  CHECK(cores.find_first_not_of("01") == std::string::npos);
}

TEST_CASE("as many threads as cores are bound to one core each", "[threads]") {
  if (std::getenv("OMP_PROC_BIND") || std::getenv("OMP_PLACES") || std::getenv("GOMP_CPU_AFFINITY")) return;
  const std::string before = cores_of_process();
  const auto cores = static_cast<int>(std::ranges::count(before, '1'));
  std::vector<std::string> bound(static_cast<std::size_t>(cores));
  bool too_many = true, as_many = false;
  std::thread([&] {  // which has OpenMP threads of its own
    omp_set_num_threads(cores + 1);
    too_many = bind_threads();
    omp_set_num_threads(cores);
    as_many = bind_threads();
#pragma omp parallel
    bound[static_cast<std::size_t>(omp_get_thread_num())] = cores_of_process();
  })
      .join();
  CHECK_FALSE(too_many);
  CHECK(as_many);
  for (const std::string& core : bound) CHECK(std::ranges::count(core, '1') == 1);
  std::ranges::sort(bound);
  CHECK(std::ranges::adjacent_find(bound) == bound.end());
  CHECK(cores_of_process() == before);  // of the other threads
}

}  // namespace
}  // namespace conclave

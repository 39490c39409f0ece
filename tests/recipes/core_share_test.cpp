// Threads per rank for ranks on separate, equal and overlapping sets of cores.
#include "recipes/training/core_share.h"

#include <catch2/catch.hpp>
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

}  // namespace
}  // namespace conclave

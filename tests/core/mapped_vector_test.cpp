#include "core/mapped_vector.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>

#include "tests/data/full_disk.h"
#include "tests/data/temporary_directory.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

// MiB of mapped files, also of those on a file system in memory, that this process has mapped pages of.
double resident_file_mebibytes() {
  std::ifstream status("/proc/self/status");
  double sum = 0, kibibytes = 0;
  for (std::string word; status >> word;)
    if ((word == "RssFile:" || word == "RssShmem:") && status >> kibibytes) sum += kibibytes / 1024;
  return sum;
}

TEST_CASE("MappedVector: values stay where their memory was given back, in a file without a name") {
  const TemporaryDirectory folder;
  const std::size_t size = (std::size_t{32} << 20) / sizeof(float) + 3;
  const MappedVector vector(size, folder.path(), 2.5F);
  CHECK(std::filesystem::is_empty(folder.path()));
  CHECK(vector.size() == size);
  CHECK(std::ranges::all_of(vector.values(), [](float value) { return value == 2.5F; }));
  std::iota(vector.values().begin(), vector.values().end(), 0.0F);
  const double before = resident_file_mebibytes();
  vector.give_back();
  CHECK(resident_file_mebibytes() < before - 31);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < size; ++i) wrong += vector.values()[i] != static_cast<float>(i);
  CHECK(wrong == 0);
}

TEST_CASE("MappedVector: without a folder it is in memory, and giving back changes nothing") {
  const MappedVector vector(5, "", -1);
  vector.values()[3] = 7;
  vector.give_back();
  CHECK((std::ranges::equal(vector.values(), std::initializer_list<float>{-1, -1, -1, 7, -1})));
}

TEST_CASE("MappedVector: no room, no folder and no elements are errors") {
  const TemporaryDirectory folder;
  {
    const FileSizeLimit full(1 << 20);
    CHECK_THROWS_WITH(MappedVector(1 << 20, folder.path()),
                      Contains(folder.path()) && Contains("cannot be written"));
  }
  CHECK(std::filesystem::is_empty(folder.path()));
  CHECK_THROWS_WITH(MappedVector(1, folder.path() + "/none"), Contains("/none"));
  CHECK_THROWS_WITH(MappedVector(0, ""), Contains("without elements"));
}

}  // namespace
}  // namespace conclave

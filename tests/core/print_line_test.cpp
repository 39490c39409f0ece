#include "core/print_line.h"

#include <catch2/catch.hpp>
#include <memory>

#include "core/file.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;

namespace {

struct ClosesFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
std::unique_ptr<std::FILE, ClosesFile> opened(const std::string& path) {
  return std::unique_ptr<std::FILE, ClosesFile>(std::fopen(path.c_str(), "w"));
}

}  // namespace

TEST_CASE("a line is there as soon as it is printed, and lost where the disk is full") {
  const TemporaryDirectory folder;
  const auto file = opened(folder.path() + "/log"), full = opened("/dev/full");
  print_line(file.get(), "12:00:00 ", "round 1 begins");
  print_line(file.get(), "", "and ends");
  CHECK(read_file(folder.path() + "/log", "") == "12:00:00 round 1 begins\nand ends\n");
  for (int line = 0; line < 3; ++line) print_line(full.get(), "", "nobody reads this");
  CHECK(std::ferror(full.get()));
}

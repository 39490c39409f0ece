#include "core/file.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "core/durable_file.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;

TEST_CASE("a file is read up to a bound, also a pipe, which without one is no regular file") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/file", pipe = folder.path() + "/pipe";
  const std::string bytes(10000, 'x');
  write_file_atomically(path, bytes);
  CHECK(read_file(path, "") == bytes);
  CHECK(read_file(path, "", 10000) == bytes);
  CHECK_THROWS_WITH(read_file(path, "give another", 9999),
                    path + ": longer than 9 KiB, which no such file is; give another");
  CHECK_THROWS_WITH(read_file(folder.path() + "/none", "make it"),
                    folder.path() + "/none: cannot be opened (No such file or directory); make it");
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  std::thread writer([&] { std::ofstream(pipe) << bytes; });
  CHECK(read_file(pipe, "", 65536) == bytes);
  writer.join();
  CHECK_THROWS_WITH(read_file("/dev/zero", ""), "/dev/zero: is not a regular file");
  CHECK_THROWS_WITH(read_file("/dev/zero", "", 100000), Contains("longer than 97 KiB"));
}

TEST_CASE("a temporary file that a crash left gives nobody rights to its successor") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/key";
  std::ofstream(path + ".tmp") << "left by a crash, and longer";
  std::filesystem::permissions(path + ".tmp", std::filesystem::perms(0666));
  AtomicFile file(path);
  file.write("secret", 0600);
  CHECK(std::filesystem::status(path + ".tmp").permissions() == std::filesystem::perms(0600));
  CHECK_FALSE(std::filesystem::exists(path));
  file.commit();
  CHECK(read_file(path, "") == "secret");
}

// Files and directories that must survive a power cut are flushed to the disk: these tests record the calls
// of fsync.
#include "core/durable_file.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include "tests/ranks/checkpoint_fixture.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::VectorContains;
using Inodes = std::vector<ino_t>;

thread_local Inodes synced;  // files and directories that this thread has passed to fsync

ino_t inode_of(const std::filesystem::path& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_ino;
}

}  // namespace
}  // namespace conclave

extern "C" int fsync(int descriptor) {
  struct stat status {};
  if (::fstat(descriptor, &status) == 0) conclave::synced.push_back(status.st_ino);
  return static_cast<int>(::syscall(SYS_fsync, descriptor));
}

namespace conclave {
namespace {

TEST_CASE("new directories are flushed to the disk in their parents, only once") {
  const SharedDirectory shared;
  const std::filesystem::path base = shared.path(), own = base / std::to_string(test_world().rank());
  synced.clear();
  create_durable_directories(own / "a" / "b");
  CHECK(std::filesystem::is_directory(own / "a" / "b"));
  CHECK(synced == Inodes{inode_of(base), inode_of(own), inode_of(own / "a")});
  synced.clear();
  create_durable_directories(own / "a" / "b");
  create_durable_directories("");
  CHECK(synced.empty());
  create_durable_directories(own / "slash" / "");
  CHECK(synced.front() == inode_of(own));

  write_file((own / "file").string(), "in the way");
  for (const auto& wanted : {own / "file", own / "file" / "below"})
    CHECK_THROWS_WITH(create_durable_directories(wanted),
                      Contains((own / "file").string() + ": the folder cannot be made: Not a directory"));
}

TEST_CASE("a run's new directory is as durable as the checkpoint in it") {
  const SharedDirectory shared;
  const std::filesystem::path base = shared.path(), run = base / "runs" / "first";
  synced.clear();
  save_on(test_world().size(), test_world().size(), run.string(), 1);
  if (test_world().rank() != 0) return;
  for (const auto& directory : {base, base / "runs", run})
    CHECK_THAT(synced, VectorContains(inode_of(directory)));
}

}  // namespace
}  // namespace conclave

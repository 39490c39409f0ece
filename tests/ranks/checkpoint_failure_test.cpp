// Saves that cannot succeed: they fail on all ranks with the same error, keep the earlier checkpoints, and do
// not prevent the next save.
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include "tests/data/full_disk.h"
#include "tests/ranks/checkpoint_fixture.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;
using Names = std::vector<std::string>;

// Saves step 1, then step 2 under the conditions that `prepare` sets up on this rank, then step 3 without
// them. Checks that only step 2 fails, and returns its outcome.
template <class Prepare>
SaveOutcome failing_save(const std::string& directory, bool asynchronous, Prepare&& prepare) {
  Communicator& world = test_world();
  CheckpointWriter writer(directory, world, 2, asynchronous);
  writer.save(test_entries(world, world.size(), true), test_state(1));
  REQUIRE(writer.wait()->saved);
  SaveOutcome outcome;
  {
    const auto conditions = prepare();
    writer.save(test_entries(world, world.size(), true, 2), test_state(2));
    outcome = *writer.wait();
  }
  CHECK_FALSE(outcome.saved);
  CHECK(world.all_gather(outcome.message) == Names(static_cast<std::size_t>(world.size()), outcome.message));
  CHECK(list_checkpoints(directory).size() == 1);
  world.barrier();

  writer.save(test_entries(world, world.size(), true, 3), test_state(3));
  CHECK(writer.wait()->saved);
  world.barrier();
  const auto entries = test_entries(world, world.size(), false);
  CheckpointReader(checkpoint_path(directory, 1), world).load(entries);
  CHECK(holds_values(entries, 1));
  CheckpointReader(checkpoint_path(directory, 3), world).load(entries);
  CHECK(holds_values(entries, 3));
  return outcome;
}

TEST_CASE("a failed write on one rank fails the save on all ranks and leaves no file") {
  for (const bool asynchronous : {false, true})
    for (const rlim_t limit : {0, 1000, 20000, 70000, 90000}) {
      const SharedDirectory directory;
      const int victim = limit % 3 == 0 ? 0 : test_world().size() - 1;
      const SaveOutcome outcome = failing_save(directory.path(), asynchronous, [&] {
        return std::make_unique<FileSizeLimit>(test_world().rank() == victim ? limit : RLIM_INFINITY);
      });
      CHECK_THAT(outcome.message,
                 Contains("step 2 not saved") && Contains(fmt::format("(on rank {})", victim)));
      CHECK(directory.files() == Names{"step-00000001.h5", "step-00000003.h5"});
    }
}

// Run by ctest as full_disk, where the test may mount (tests/with_mounts.sh).
TEST_CASE("a full disk fails the save before anything is written, and says so", "[.full_disk]") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  const bool mounted =
      world.rank() != 0 || ::mount("tmpfs", directory.path().c_str(), "tmpfs", 0, "size=1m") == 0;
  REQUIRE(world.max(Index{!mounted}) == 0);
  const SaveOutcome outcome = failing_save(directory.path(), true, [&] {
    if (world.rank() == 0) {
      std::string filler(1 << 20, 'x');
      write_file(directory.path() + "/filler", filler);
    }
    world.barrier();
    struct Remove {
      std::string path;
      ~Remove() {
        test_world().barrier();
        if (test_world().rank() == 0) ::unlink(path.c_str());
      }
    };
    return std::make_unique<Remove>(directory.path() + "/filler");
  });
  CHECK_THAT(outcome.message, Contains("No space left on device"));
  CHECK(directory.files() == Names{"step-00000001.h5", "step-00000003.h5"});
  world.barrier();
  if (world.rank() == 0) ::umount2(directory.path().c_str(), MNT_DETACH);
}

TEST_CASE("a directory that cannot be made or written is a failed save, not a failed run") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  if (world.rank() == 0) write_file(directory.path() + "/file", "in the way");
  world.barrier();
  CheckpointWriter writer(directory.path() + "/file/checkpoints", world, 0, true);
  writer.save(test_entries(world, world.size(), true), test_state(1));
  CHECK_FALSE(writer.wait()->saved);
  CHECK_THAT(writer.wait()->message, Contains("Not a directory") && Contains("(on rank 0)"));

  if (::geteuid() == 0) return;  // root may write in any directory
  if (world.rank() == 0) ::chmod(directory.path().c_str(), 0500);
  world.barrier();
  CheckpointWriter locked(directory.path(), world, 0, true);
  locked.save(test_entries(world, world.size(), true), test_state(1));
  CHECK_THAT(locked.wait()->message, Contains("ermission denied"));
  world.barrier();
  if (world.rank() == 0) ::chmod(directory.path().c_str(), 0700);
}

}  // namespace
}  // namespace conclave

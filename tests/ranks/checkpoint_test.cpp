// Saving and loading as in a training run, on the number of ranks that this binary was started with.
#include <fcntl.h>
#include <semaphore.h>
#include <catch2/catch.hpp>

#include "tests/ranks/checkpoint_fixture.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;
using Names = std::vector<std::string>;

TEST_CASE("a checkpoint saved on any number of ranks loads on any other number") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  for (int writers = 1; writers <= world.size(); ++writers)
    for (int expert_parallel = 1; expert_parallel <= writers; ++expert_parallel) {
      if (writers % expert_parallel != 0) continue;
      const std::string path =
          save_on(writers, expert_parallel, directory.path(), 10 * writers + expert_parallel);
      for (int readers = 1; readers <= world.size(); ++readers) {
        const auto group = world.split(world.rank() < readers ? 0 : 1);
        if (world.rank() >= readers) continue;
        const CheckpointReader reader(path, *group);
        const auto entries = test_entries(*group, readers, false);
        reader.load(entries);
        CHECK(holds_values(entries));
        reader.verify();
      }
      world.barrier();
    }
}

TEST_CASE("a checkpoint has the same bytes from any number of ranks, in background or not") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  const std::string alone = read_file(save_on(1, 1, directory.path() + "/alone", 7));
  CHECK(alone.size() > 0);
  CHECK(read_file(save_on(world.size(), world.size(), directory.path() + "/sync", 7)) == alone);

  CheckpointWriter writer(directory.path() + "/async", world, 0, true);
  auto entries = test_entries(world, world.size(), true);
  writer.save(entries, test_state(7));
  for (const TensorEntry& entry : entries) entry.values.fill(99);  // as training changes them meanwhile
  REQUIRE(writer.wait()->saved);
  world.barrier();
  CHECK(read_file(writer.wait()->path) == alone);
}

TEST_CASE("who waits for a save needs no memory for a copy") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  const auto entries = test_entries(world, world.size(), true);
  CHECK(CheckpointWriter(directory.path(), world, 0, true).prepare(entries) > 0);
  CHECK(CheckpointWriter(directory.path(), world, 0, false).prepare(entries) == 0);
}

TEST_CASE("the state comes back as it was saved") {
  const SharedDirectory directory;
  const CheckpointReader reader(save_on(test_world().size(), 1, directory.path(), 123456789));
  const CheckpointState expected = test_state(123456789);
  CHECK(reader.state().step == expected.step);
  CHECK(reader.state().recipe == expected.recipe);
  CHECK(reader.state().metadata == expected.metadata);
  CHECK(reader.state().tokenizer == expected.tokenizer);
  CHECK(reader.names().size() == 12);
  CHECK(reader.has("model/scale"));
  CHECK(reader.shape("model/layers/0/moe/experts/up/weight") == Shape{kExperts, 16, 32});
  CHECK(reader.dtype("model/layers/0/moe/experts/down/weight") == DType::bf16);
}

TEST_CASE("an empty state and a tensor of many shards are saved") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  const Index rows = 10000, mine = rows / world.size();  // more checksums than fit HDF5's compact attributes
  const Index first = mine * world.rank(), last = world.rank() + 1 == world.size() ? rows : first + mine;
  const Tensor values = Tensor::zeros({last - first, 3});
  values.fill(2.5);
  CheckpointWriter writer(directory.path(), world, 0, false);
  writer.save(std::vector<TensorEntry>{{"model/many", values, {rows, 3}, first, true}}, {});
  INFO(writer.wait()->message);
  REQUIRE(writer.wait()->saved);
  const CheckpointReader reader(writer.wait()->path);
  CHECK(reader.state().recipe.empty());
  CHECK(reader.state().tokenizer.empty());
  CHECK(reader.read("model/many").span<float>()[3 * 9999] == 2.5f);
}

TEST_CASE("a save passes what it has read of long tensors, so that their memory can be given back") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  const Index size = Index{9} << 20;  // 36 MiB: three pieces, which are hashed and written
  const Tensor values = Tensor::zeros({size});
  for (Index i = 0; i < size; i += 1001)
    values.span<float>()[static_cast<std::size_t>(i)] = static_cast<float>(i);
  int passed = 0;
  CheckpointWriter writer(directory.path(), world, 0, false, {}, [&] { ++passed; });
  writer.save(std::vector<TensorEntry>{{"model/long", values, {size}, 0, false}}, {});
  INFO(writer.wait()->message);
  REQUIRE(writer.wait()->saved);
  CHECK(passed == (world.rank() == 0 ? 6 : 0));
  const Tensor read = CheckpointReader(writer.wait()->path).read("model/long");
  CHECK((std::ranges::equal(read.span<float>(), values.span<float>())));
}

TEST_CASE("background saves run one after another while the ranks communicate") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  std::vector<SaveOutcome> reports;
  {
    CheckpointWriter writer(directory.path(), world, 3, true,
                            [&](const SaveOutcome& o) { reports.push_back(o); });
    for (int step = 1; step <= 8; ++step) {
      writer.save(test_entries(world, world.size(), true, step), test_state(step));
      const Tensor gradient = Tensor::zeros({20000});
      for (int i = 0; i < 20; ++i) world.all_reduce(gradient);
      const auto other = world.split(world.rank() % 2);
      other->barrier();
    }
  }
  CHECK(reports.size() == (world.rank() == 0 ? 8u : 0u));
  world.barrier();
  CHECK(directory.files() == Names{"step-00000006.h5", "step-00000007.h5", "step-00000008.h5"});
  const auto entries = test_entries(world, world.size(), false);
  CheckpointReader(*newest_checkpoint(directory.path(), Verify::structure), world).load(entries);
  CHECK(holds_values(entries, 8));
}

TEST_CASE("old checkpoints and left-over temporary files are deleted, others stay") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  if (world.rank() == 0) {
    write_file(directory.path() + "/step-00000001.h5.tmp", "torn");
    write_file(directory.path() + "/step-00000002.h5.0123456789abcdef.tmp", "torn");
    write_file(directory.path() + "/notes.txt", "mine");
  }
  world.barrier();
  for (int step : {10, 20, 30}) save_on(world.size(), 1, directory.path(), step, 2);
  CHECK(directory.files() == Names{"notes.txt", "step-00000020.h5", "step-00000030.h5"});
  world.barrier();
  save_on(world.size(), 1, directory.path(), 5, 1);  // a run that went back to step 5 keeps its newest save
  CHECK(directory.files() == Names{"notes.txt", "step-00000005.h5"});
}

TEST_CASE("checkpoints that a run does not resume from are set aside, each time apart") {
  const SharedDirectory directory;
  if (test_world().rank() != 0) return;
  const auto write = [&](const std::string& name) { write_file(directory.path() + "/" + name, name); };
  const auto aside = [&](std::int64_t step) {
    const SetAside moved = set_aside_checkpoints(directory.path(), step);
    return std::pair(moved.checkpoints, moved.folder);
  };
  CHECK(aside(-1) == std::pair(std::size_t{0}, std::string()));
  write("notes.txt");
  for (int round = 0; round < 2; ++round) {
    write("step-00000001.h5");
    write("step-00000002.h5");
    CHECK(aside(1) == std::pair(std::size_t{1}, directory.path() + (round == 0 ? "/earlier" : "/earlier-3")));
    CHECK(aside(-1) ==
          std::pair(std::size_t{1}, directory.path() + (round == 0 ? "/earlier-2" : "/earlier-4")));
  }
  CHECK(directory.files() == Names{"earlier", "earlier-2", "earlier-3", "earlier-4", "notes.txt"});
  CHECK(read_file(directory.path() + "/earlier/step-00000002.h5") == "step-00000002.h5");

  // Other files of the run get their turn before its checkpoints, and also without any.
  const std::string fifth = directory.path() + "/earlier-5";
  std::vector<std::string> told;
  const auto first = [&](const std::string& folder) {
    told.push_back(folder);
    CHECK(std::filesystem::is_empty(folder));
  };
  write("step-00000001.h5");
  CHECK(set_aside_checkpoints(directory.path(), 1, first).folder.empty());
  CHECK(set_aside_checkpoints(directory.path(), -1, first).folder == fifth);
  const SetAside nothing = set_aside_checkpoints(directory.path(), -1, first, true);
  CHECK(nothing.checkpoints == 0);
  CHECK(nothing.folder == directory.path() + "/earlier-6");
  CHECK(told == std::vector{fifth, nothing.folder});
}

TEST_CASE("a semaphore that a killed job left locked does not block a save") {
  const SharedDirectory directory;
  // Open MPI names the semaphore after the file that it guards. A value of 0 means that it is locked.
  const char* name = "/OMPIO_step-00000007.h5.tmp";
  sem_t* const left = ::sem_open(name, O_CREAT, 0600, 0);
  REQUIRE(left != SEM_FAILED);
  test_world().barrier();
  save_on(test_world().size(), 1, directory.path(), 7);
  test_world().barrier();
  ::sem_close(left);
  ::sem_unlink(name);
  CHECK(directory.files() == Names{"step-00000007.h5"});
}

TEST_CASE("inconsistent entries are refused on every rank, and the writer still works") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  CheckpointWriter writer(directory.path(), world, 0, true);
  const auto refused = [&](auto&& change, const std::string& why) {
    auto entries = test_entries(world, world.size(), true);
    change(entries);
    CHECK_THROWS_WITH(writer.save(entries, test_state(1)), Contains(why));
  };
  const bool last = world.rank() + 1 == world.size();
  refused(
      [&](auto& e) {
        if (last) e[0].name = "model//x";
      },
      "\"model//x\" cannot name a tensor");
  refused(
      [&](auto& e) {
        if (last) e[0].name = "state/recipe";
      },
      "cannot name a tensor");
  refused(
      [&](auto& e) {
        if (last) e[3].name = e[0].name;
      },
      "model/embedding/weight is given twice");
  refused(
      [&](auto& e) {
        if (last) e[0].values = Tensor::zeros({49, 16});
      },
      "model/embedding/weight");
  refused(
      [&](auto& e) {
        if (last) e[1].first_row = kExperts;
      },
      "model/layers/0/moe/experts/up/weight");
  refused(
      [&](auto& e) {
        e[1] = {e[1].name, e[1].values.rows(0, 1), e[1].global_shape, 0, true};
      },
      "no rank holds the rows");
  if (world.size() > 1) {
    refused(
        [&](auto& e) {
          if (last) e[0] = {e[0].name, Tensor::zeros({2}), {2}, 0, false};
        },
        "model/embedding/weight f32 [2] where rank 0 has model/embedding/weight f32 [50, 16]");
    refused(
        [&](auto& e) {
          if (last) e.pop_back();
        },
        "has nothing where rank 0 has optimizer/nothing");
    CHECK_THROWS_WITH(writer.save(test_entries(world, 1, true), test_state(world.rank())),
                      Contains("at steps from 0"));
  }
  writer.save(test_entries(world, world.size(), true), test_state(1));
  CHECK(writer.wait()->saved);
}

}  // namespace
}  // namespace conclave

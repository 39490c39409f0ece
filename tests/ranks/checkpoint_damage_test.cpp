// Damaged checkpoint files: each is refused with an error that names the tensor and the reason, and nothing
// is loaded in part.
#include <catch2/catch.hpp>

#include "parallel/checkpoint/hdf5_structure.h"
#include "tests/ranks/checkpoint_fixture.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

// The position of the tensor's values in the file. The values are unique, so a search finds them.
std::size_t place_of(const std::string& file, const Tensor& values) {
  const std::string bytes(static_cast<const char*>(values.raw()), values.bytes());
  const std::size_t at = file.find(bytes);
  REQUIRE(at != std::string::npos);
  return at;
}

// A copy of the file for this rank alone to damage.
std::string private_copy(const SharedDirectory& directory, const std::string& bytes) {
  const std::string path = fmt::format("{}/rank-{}.h5", directory.path(), test_world().rank());
  write_file(path, bytes);
  return path;
}

TEST_CASE("a flipped bit anywhere in a tensor is reported with the tensor's name") {
  const SharedDirectory directory;
  const std::string good = read_file(save_on(test_world().size(), 1, directory.path(), 1));
  const auto alone = test_world().split(test_world().rank());
  for (const TensorEntry& entry : test_entries(*alone, 1, true)) {
    if (entry.values.bytes() == 0) continue;
    const std::size_t begin = place_of(good, entry.values), end = begin + entry.values.bytes();
    for (const std::size_t at : {begin, begin + entry.values.bytes() / 2, end - 1}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ 0x10);
      const CheckpointReader reader(private_copy(directory, bad));
      const std::string expected = "tensor " + entry.name + ": checksum mismatch";
      CHECK_THROWS_WITH(reader.verify(), Contains(expected));
      CHECK_THROWS_WITH(reader.read(entry.name), Contains(expected));
      const auto entries = test_entries(*alone, 1, false);
      CHECK_THROWS_WITH(reader.load(entries), Contains(expected));
      CHECK(holds_zeros(entries));
    }
  }
}

TEST_CASE("a flipped bit outside the tensors is noticed if it changes anything") {
  const SharedDirectory directory;
  const std::string good = read_file(save_on(test_world().size(), 1, directory.path(), 1));
  const auto alone = test_world().split(test_world().rank());
  const CheckpointState state = test_state(1);
  int refused = 0;
  for (std::size_t at = 0; at < good.size(); at += 97) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x04);
    const auto entries = test_entries(*alone, 1, false);
    try {
      const CheckpointReader reader(private_copy(directory, bad));
      reader.load(entries);
      CHECK(holds_values(entries));
      CHECK(reader.state().recipe == state.recipe);
      CHECK(reader.state().metadata == state.metadata);
      CHECK(reader.state().tokenizer == state.tokenizer);
    } catch (const Error&) {
      ++refused;
      CHECK(holds_zeros(entries));
    }
  }
  CHECK(refused > 0);
}

TEST_CASE("a damaged shard is seen by the rank that reads it, and no rank loads anything") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  const std::string path = save_on(world.size(), world.size(), directory.path(), 1);
  if (world.rank() == 0) {
    std::string bad = read_file(path);
    const auto alone = world.split(0);
    bad[place_of(bad, test_entries(*alone, 1, true)[1].values)] ^= 1;
    write_file(path, bad);
  } else {
    world.split(1);
  }
  world.barrier();
  const auto entries = test_entries(world, world.size(), false);
  CHECK_THROWS_WITH(CheckpointReader(path, world).load(entries),
                    Contains("model/layers/0/moe/experts/up/weight: checksum mismatch in row 0"));
  CHECK(holds_zeros(entries));
}

TEST_CASE("a truncated checkpoint is refused at any length, and an older one is used") {
  const SharedDirectory directory;
  const std::string before = save_on(test_world().size(), 1, directory.path(), 1);
  const std::string path = save_on(test_world().size(), 1, directory.path(), 2);
  const std::string good = read_file(path);
  for (std::size_t length = 0; length < good.size(); length += good.size() / 23)
    CHECK_THROWS_AS(CheckpointReader(private_copy(directory, good.substr(0, length))), Error);
  CHECK_THROWS_WITH(CheckpointReader(private_copy(directory, good.substr(0, good.size() - 1))),
                    Contains("truncated"));

  test_world().barrier();
  if (test_world().rank() == 0) write_file(path, good.substr(0, good.size() / 2));
  test_world().barrier();
  std::vector<std::string> warnings;
  CHECK(newest_checkpoint(directory.path(), Verify::structure, &warnings) == before);
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Contains("step-00000002.h5") && Contains("truncated"));
  CHECK(newest_checkpoint(directory.path() + "/none", Verify::structure) == std::nullopt);
}

TEST_CASE("with verification, a checkpoint with a damaged tensor is not the newest") {
  const SharedDirectory directory;
  const std::string before = save_on(test_world().size(), 1, directory.path(), 1);
  const std::string path = save_on(test_world().size(), 1, directory.path(), 2);
  const auto alone = test_world().split(test_world().rank());
  if (test_world().rank() == 0) {
    std::string bad = read_file(path);
    bad[place_of(bad, test_entries(*alone, 1, true)[0].values)] ^= 1;
    write_file(path, bad);
  }
  test_world().barrier();
  std::vector<std::string> warnings;
  CHECK(newest_checkpoint(directory.path(), Verify::structure, &warnings) == path);
  CHECK(warnings.empty());
  CHECK(newest_checkpoint(directory.path(), Verify::everything, &warnings) == before);
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Contains("step-00000002.h5: tensor model/embedding/weight: checksum mismatch"));
}

TEST_CASE("files that are not checkpoints of this schema are refused with the reason") {
  const SharedDirectory directory;
  const std::string path = private_copy(directory, "");
  const auto made_of = [&](const std::function<void(Hdf5Structure&)>& describe) {
    const Hdf5Lock lock;
    lay_out_hdf5(path, describe);
  };
  made_of([](Hdf5Structure&) {});
  CHECK_THROWS_WITH(CheckpointReader(path), Contains("not a checkpoint of Conclave"));
  made_of([](Hdf5Structure& file) {
    file.attribute("format", "conclave-checkpoint");
    file.attribute("schema_version", kCheckpointSchema + 1);
  });
  CHECK_THROWS_WITH(CheckpointReader(path), Contains("schema version 2, this program reads version 1"));
  made_of([](Hdf5Structure& file) {
    file.attribute("format", "conclave-checkpoint");
    file.attribute("schema_version", kCheckpointSchema);
    file.attribute("step", std::int64_t{-4});
  });
  CHECK_THROWS_WITH(CheckpointReader(path), Contains("says that it is of step -4"));
  write_file(path, "PK zip");
  CHECK_THROWS_WITH(CheckpointReader(path), Contains("not a whole HDF5 file"));
  CHECK_THROWS_WITH(CheckpointReader(path + ".absent"), Contains("No such file"));
}

TEST_CASE("attributes of more elements than memory is there for are refused unread") {
  const SharedDirectory directory;
  const std::string good = read_file(save_on(test_world().size(), 1, directory.path(), 1));
  // A copy whose `object` has the attribute `name` of `type`, filled with ones, instead of its own.
  const auto with = [&](const char* object, const char* name, hid_t type, std::array<hsize_t, 2> extents) {
    const std::string path = private_copy(directory, good);
    const Hdf5Id file = open_hdf5(path, true);
    const Hdf5Id owner(H5Oopen(file, object, H5P_DEFAULT), H5Oclose, object);
    const Hdf5Id space(H5Screate_simple(2, extents.data(), nullptr), H5Sclose, name);
    check_hdf5(H5Adelete(owner, name), name);
    const Hdf5Id made(H5Acreate2(owner, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, name);
    const std::size_t bytes = H5Tget_size(type) * extents[0] * extents[1];
    if (bytes > 0) check_hdf5(H5Awrite(made, type, std::string(bytes, 'a').data()), name);
    return path;
  };
  const Hdf5Lock lock;
  CHECK_THROWS_WITH(CheckpointReader(with("/", "format", hdf5_string(4000), {15, 1})),
                    Contains("attribute format cannot be read: it is not one text"));
  CHECK_THROWS_WITH(CheckpointReader(with("model/scale", "dtype", hdf5_string(4000), {15, 1})),
                    Contains("tensor model/scale: attribute dtype cannot be read: it is not one text"));
  // 2^60 times 16 bytes is 0 in 64 bits.
  CHECK_THROWS_WITH(
      CheckpointReader(with("model/scale", "xxh3_128", H5T_STD_U8LE, {hsize_t{1} << 60, 16})),
      Contains("tensor model/scale: attribute xxh3_128 cannot be read: it is not [checksums, 16]"));
}

TEST_CASE("a tensor that is missing or has another shape or type is named") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  const CheckpointReader reader(save_on(world.size(), 1, directory.path(), 1), world);
  const auto refused = [&](TensorEntry changed, const std::string& why) {
    auto entries = test_entries(world, world.size(), false);
    entries[3] = std::move(changed);
    CHECK_THROWS_WITH(reader.load(entries), Contains(why));
    CHECK(holds_zeros(entries));
  };
  refused({"model/head/bias", Tensor::zeros({2}), {2}, 0, false}, "tensor model/head/bias is missing");
  refused({"model/scale", Tensor::zeros({2}, DType::f64), {2}, 0, false},
          "shape [] in the file, [2] in the model");
  refused({"model/embedding/weight", Tensor::zeros({50, 16}, DType::f64), {50, 16}, 0, false},
          "f32 in the file, f64 in the model");
}

}  // namespace
}  // namespace conclave

// Exported models: what other programs read must be what was trained.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cctype>
#include <cstring>
#include <nlohmann/json.hpp>

#include "parallel/checkpoint/export.h"
#include "parallel/checkpoint/safetensors.h"
#include "tests/ranks/checkpoint_fixture.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

TEST_CASE("an export holds the model's tensors alone, with the same bits") {
  Communicator& world = test_world();
  const SharedDirectory directory;
  const CheckpointReader reader(save_on(world.size(), world.size(), directory.path(), 42));
  const std::string base = fmt::format("{}/rank-{}", directory.path(), world.rank());
  export_safetensors(reader, base + ".safetensors", {.recipe_name = "tiny"});
  export_hdf5(reader, base + ".h5");

  const std::string bytes = read_file(base + ".safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  auto header = nlohmann::json::parse(bytes.substr(8, length));
  CHECK(header.at("__metadata__").at("recipe_name") == "tiny");
  CHECK(header.at("__metadata__").at("step") == "42");
  header.erase("__metadata__");
  CHECK(header.size() == 5);
  const Hdf5Lock lock;
  const Hdf5Id hdf5 = open_hdf5(base + ".h5");
  std::size_t all = 0;
  for (const auto& [name, entry] : header.items()) {
    CAPTURE(name);
    const Tensor expected = reader.read("model/" + name);
    std::string dtype(name_of(expected.dtype()));
    std::ranges::transform(dtype, dtype.begin(), [](char c) { return static_cast<char>(std::toupper(c)); });
    CHECK(entry.at("dtype") == dtype);
    const auto extents = entry.at("shape").get<std::vector<Index>>();
    CHECK(Shape(std::span<const Index>(extents)) == expected.shape());
    const std::size_t begin = 8 + length + entry.at("data_offsets").at(0).get<std::size_t>();
    CHECK(begin % size_of(expected.dtype()) == 0);
    REQUIRE(8 + length + entry.at("data_offsets").at(1).get<std::size_t>() == begin + expected.bytes());
    REQUIRE(begin + expected.bytes() <= bytes.size());
    CHECK(std::memcmp(bytes.data() + begin, expected.raw(), expected.bytes()) == 0);
    all += expected.bytes();
    const Hdf5Id dataset(H5Dopen2(hdf5, name.c_str(), H5P_DEFAULT), H5Dclose, name);
    const Tensor values = Tensor::zeros(expected.shape(), expected.dtype());
    read_rows(dataset, values.shape(), values.dtype(), 0, values.rank() == 0 ? 1 : values.size(0),
              values.raw());
    CHECK(std::memcmp(values.raw(), expected.raw(), expected.bytes()) == 0);
  }
  CHECK(8 + length + all == bytes.size());
}

TEST_CASE("an export that fails leaves what was there") {
  const SharedDirectory directory;
  std::string bytes = read_file(save_on(test_world().size(), 1, directory.path(), 1));
  const std::string base = fmt::format("{}/rank-{}", directory.path(), test_world().rank());
  const auto alone = test_world().split(test_world().rank());
  const Tensor weight = test_entries(*alone, 1, true)[1].values;
  bytes[bytes.find(std::string(static_cast<const char*>(weight.raw()), weight.bytes()))] ^= 1;
  write_file(base + "-damaged.h5", bytes);
  const CheckpointReader reader(base + "-damaged.h5");
  for (const std::string& path : {base + ".safetensors", base + ".h5"}) {
    write_file(path, "before");
    const auto exporting = [&] {
      path.ends_with(".h5") ? export_hdf5(reader, path)
                            : export_safetensors(reader, path, {.recipe_name = "tiny"});
    };
    CHECK_THROWS_WITH(exporting(), Contains("checksum mismatch"));
    CHECK(read_file(path) == "before");
    CHECK_FALSE(std::filesystem::exists(path + ".tmp"));
  }
}

}  // namespace
}  // namespace conclave

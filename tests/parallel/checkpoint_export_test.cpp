// Exported models: other programs must read exactly the tensors that were trained, and headers of files from
// unknown sources are checked.
#include <catch2/catch.hpp>
#include <cstring>

#include "parallel/checkpoint/export.h"
#include "parallel/checkpoint/safetensors.h"
#include "tests/parallel/checkpoint_fixture.h"

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

  const SafetensorsFile file = read_safetensors(base + ".safetensors");
  CHECK(file.metadata.at("recipe_name") == "tiny");
  CHECK(file.metadata.at("step") == "42");
  CHECK(file.tensors.size() == 5);
  const std::string bytes = read_file(base + ".safetensors");
  const Hdf5Lock lock;
  const Hdf5Id hdf5 = open_hdf5(base + ".h5");
  for (const auto& [name, entry] : file.tensors) {
    CAPTURE(name);
    const Tensor expected = reader.read("model/" + name);
    CHECK(entry.dtype == expected.dtype());
    CHECK(entry.shape == expected.shape());
    CHECK(entry.begin % size_of(entry.dtype) == 0);
    REQUIRE(entry.end - entry.begin == expected.bytes());
    CHECK(std::memcmp(bytes.data() + entry.begin, expected.raw(), expected.bytes()) == 0);
    const Hdf5Id dataset(H5Dopen2(hdf5, name.c_str(), H5P_DEFAULT), H5Dclose, name);
    const Tensor values = Tensor::zeros(expected.shape(), expected.dtype());
    read_rows(dataset, values.shape(), values.dtype(), 0, values.rank() == 0 ? 1 : values.size(0),
              values.raw());
    CHECK(std::memcmp(values.raw(), expected.raw(), expected.bytes()) == 0);
  }
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

TEST_CASE("a safetensors header that lies about sizes is refused") {
  const SharedDirectory directory;
  const std::string path = fmt::format("{}/rank-{}.safetensors", directory.path(), test_world().rank());
  const auto refused = [&](const std::string& header, const std::string& data, const std::string& why) {
    std::string length(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i));
    write_file(path, length + header + data);
    CHECK_THROWS_WITH(read_safetensors(path), Contains(why));
  };
  write_file(path, "abc");
  CHECK_THROWS_WITH(read_safetensors(path), Contains("too short"));
  write_file(path, std::string(7, '\xff') + '\x7f' + "{}");
  CHECK_THROWS_WITH(read_safetensors(path), Contains("does not fit"));
  refused("[", "", "header");
  refused("[]", "", "not a JSON object");
  refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "1234", "outside");
  refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", "12345678", "outside");
  refused(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", "12345678", "does not take 8 bytes");
  refused(R"({"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})", "1234", "a:");
  refused(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", "",
          "can be counted");
  refused(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "1234", "not a number");
  refused(R"({"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", "1234", "F99 is not supported");
  refused(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", "1234", "shape");
  refused(
      R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
      "1234", "overlap");
  refused(R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})", "1234", "gap");
  refused(R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "1234", "end at byte");
}

}  // namespace
}  // namespace conclave

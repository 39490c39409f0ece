#include "tests/ranks/checkpoint_fixture.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>

namespace conclave {
namespace {

// Element i of the global tensor is base + i; in bf16, which is exact only up to 256, (base + i) modulo 199.
template <class T>
void fill(const Tensor& values, Index first, double base) {
  T* at = values.data<T>();
  for (Index i = 0; i < values.numel(); ++i) {
    if constexpr (std::is_same_v<T, BFloat16>)
      at[i] = BFloat16(static_cast<float>((first + i + static_cast<Index>(base)) % 199));
    else
      at[i] = static_cast<T>(base + static_cast<double>(first + i));
  }
}

void fill_entry(const TensorEntry& entry, int seed) {
  const bool rows = entry.sharded && entry.global_shape[0] > 0;
  const Index first = rows ? entry.first_row * (entry.global_shape.numel() / entry.global_shape[0]) : 0;
  // The fraction differs from tensor to tensor, so that no two tensors share a sequence of values.
  const double kind = static_cast<double>(std::hash<std::string>{}(entry.name) % 1024);
  const bool real = entry.values.dtype() == DType::f32 || entry.values.dtype() == DType::f64;
  const double base = seed * 3.0 + (real ? kind / 1024 : std::fmod(kind, 100.0));
  switch (entry.values.dtype()) {
    case DType::f32:
      return fill<float>(entry.values, first, base);
    case DType::f64:
      return fill<double>(entry.values, first, base);
    case DType::bf16:
      return fill<BFloat16>(entry.values, first, base);
    case DType::i64:
      return fill<std::int64_t>(entry.values, first, base);
    case DType::i32:
      return fill<std::int32_t>(entry.values, first, base);
    case DType::i8:
      return fill<std::int8_t>(entry.values, first, base);
    case DType::u8:
      return fill<std::uint8_t>(entry.values, first, base);
  }
}

}  // namespace

SharedDirectory::SharedDirectory() {
  std::string path = (std::filesystem::temp_directory_path() / "conclave-checkpoint-XXXXXX").string();
  if (test_world().rank() == 0) path = ::mkdtemp(path.data());
  path_ = test_world().broadcast(path, 0);
}

SharedDirectory::~SharedDirectory() {
  test_world().barrier();
  std::error_code ignored;
  if (test_world().rank() == 0) std::filesystem::remove_all(path_, ignored);
}

std::vector<std::string> SharedDirectory::files() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path_))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<TensorEntry> test_entries(Communicator& group, int expert_parallel, bool filled, int seed) {
  std::vector<TensorEntry> entries;
  const auto replicated = [&](const std::string& name, const Shape& shape, DType dtype) {
    entries.push_back({name, Tensor::zeros(shape, dtype), shape, 0, false});
  };
  const auto sharded = [&](const std::string& name, const Shape& shape, DType dtype) {
    const Index rows = shape[0] / expert_parallel, part = group.rank() % expert_parallel;
    Shape local = shape;
    local[0] = part + 1 == expert_parallel ? shape[0] - part * rows : rows;
    entries.push_back({name, Tensor::zeros(local, dtype), shape, part * rows, true});
  };
  replicated("model/embedding/weight", {50, 16}, DType::f32);
  sharded("model/layers/0/moe/experts/up/weight", {kExperts, 16, 32}, DType::f32);
  sharded("model/layers/0/moe/experts/down/weight", {kExperts, 32, 16}, DType::bf16);
  replicated("model/layers/0/moe/router/weight", {16, kExperts}, DType::f32);
  replicated("model/scale", {}, DType::f64);
  replicated("optimizer/first_moment/embedding/weight", {50, 16}, DType::f32);
  sharded("optimizer/first_moment/layers/0/moe/experts/up/weight", {kExperts, 16, 32}, DType::f32);
  replicated("optimizer/counts", {3}, DType::i64);
  replicated("optimizer/quantized", {5, 7}, DType::i8);
  replicated("optimizer/levels", {5}, DType::i32);
  replicated("optimizer/mask", {9}, DType::u8);
  replicated("optimizer/nothing", {0, 4}, DType::f32);
  if (filled)
    for (const TensorEntry& entry : entries) fill_entry(entry, seed);
  return entries;
}

bool holds_values(const std::vector<TensorEntry>& entries, int seed) {
  return std::all_of(entries.begin(), entries.end(), [&](const TensorEntry& entry) {
    TensorEntry expected = entry;
    expected.values = Tensor::empty(entry.values.shape(), entry.values.dtype());
    fill_entry(expected, seed);
    return std::memcmp(expected.values.raw(), entry.values.raw(), entry.values.bytes()) == 0;
  });
}

bool holds_zeros(const std::vector<TensorEntry>& entries) {
  return std::all_of(entries.begin(), entries.end(), [](const TensorEntry& entry) {
    const auto* bytes = static_cast<const std::byte*>(entry.values.raw());
    return std::all_of(bytes, bytes + entry.values.bytes(), [](std::byte b) { return b == std::byte{0}; });
  });
}

CheckpointState test_state(std::int64_t step) {
  return {step, "name = \"tiny\"\n# μ\n", R"({"position": 12, "classes": ["cat", "dog"]})",
          std::string("a\0b\xff", 4)};
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::string save_on(int ranks, int expert_parallel, const std::string& directory, std::int64_t step,
                    int keep) {
  const bool member = test_world().rank() < ranks;
  const auto group = test_world().split(member ? 0 : 1);
  if (member) {
    CheckpointWriter writer(directory, *group, keep, false);
    writer.save(test_entries(*group, expert_parallel, true), test_state(step));
    require(writer.wait()->saved, "{}", writer.wait()->message);
  }
  test_world().barrier();
  return checkpoint_path(directory, step);
}

}  // namespace conclave

// Tensors are written in order of element size, largest first, so that each is aligned without gaps between
// them.
#include "parallel/checkpoint/safetensors.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/durable_file.h"

namespace conclave {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::pair<DType, const char*>, 7> kNames{{{DType::f32, "F32"},
                                                               {DType::f64, "F64"},
                                                               {DType::bf16, "BF16"},
                                                               {DType::i64, "I64"},
                                                               {DType::i32, "I32"},
                                                               {DType::i8, "I8"},
                                                               {DType::u8, "U8"}}};

std::string little_endian(std::uint64_t value) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[static_cast<std::size_t>(i)] = static_cast<char>(value >> (8 * i));
  return bytes;
}

}  // namespace

void export_safetensors(const CheckpointReader& checkpoint, const std::string& path,
                        const ExportNotes& notes) {
  std::vector<std::string> names = model_tensors(checkpoint);
  std::stable_sort(names.begin(), names.end(), [&](const auto& a, const auto& b) {
    return size_of(checkpoint.dtype(a)) > size_of(checkpoint.dtype(b));
  });
  Json header;
  header["__metadata__"] = {{"format", "pt"},
                            {"recipe_name", notes.recipe_name},
                            {"class_names", Json(notes.class_names).dump()},
                            {"quantization", notes.quantization},
                            {"recipe", checkpoint.state().recipe},
                            {"step", std::to_string(checkpoint.state().step)}};
  std::uint64_t at = 0;
  for (const std::string& name : names) {
    const Shape shape = checkpoint.shape(name);
    const DType dtype = checkpoint.dtype(name);
    const std::uint64_t end = at + static_cast<std::uint64_t>(shape.numel()) * size_of(dtype);
    const auto tag =
        std::find_if(kNames.begin(), kNames.end(), [&](const auto& known) { return known.first == dtype; });
    header[exported_name(name)] = {
        {"dtype", tag->second},
        {"shape", std::vector<Index>(shape.extents().begin(), shape.extents().end())},
        {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');

  AtomicFile file(path);
  {
    FileDescriptor out(file.temporary(), O_WRONLY | O_CREAT | O_TRUNC);
    const std::string length = little_endian(text.size());
    out.reserve(length.size() + text.size() + at);
    out.write(length.data(), length.size());
    out.write(text.data(), text.size());
    for (const std::string& name : names) {
      const Tensor values = checkpoint.read(name);
      out.write(values.raw(), values.bytes());
    }
  }
  file.commit();
}

}  // namespace conclave

// Tensors are written in order of element size, largest first, so that each is aligned without gaps between
// them.
#include "parallel/checkpoint/safetensors.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <fstream>
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
constexpr std::uint64_t kLargestHeader = 100'000'000;  // the limit of the reference implementation

std::string little_endian(std::uint64_t value) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[static_cast<std::size_t>(i)] = static_cast<char>(value >> (8 * i));
  return bytes;
}

SafetensorsFile::Entry parse_entry(const Json& json, std::uint64_t data_begin, std::uint64_t data_bytes) {
  const auto& offsets = json.at("data_offsets");
  require(offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() &&
              offsets[1].is_number_unsigned(),
          "data_offsets are not two numbers");
  const auto begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
  require(begin <= end && end <= data_bytes, "data_offsets {} to {} are outside the {} bytes of data", begin,
          end, data_bytes);

  std::vector<Index> extents;
  require(json.at("shape").is_array() && json["shape"].size() <= Shape::kMaxRank, "more than {} dimensions",
          Shape::kMaxRank);
  for (const Json& extent : json["shape"]) {
    require(extent.is_number_unsigned(), "an extent of the shape is not a number");
    extents.push_back(extent.get<Index>());
  }
  const std::string dtype = json.at("dtype").get<std::string>();
  const auto known =
      std::find_if(kNames.begin(), kNames.end(), [&](const auto& name) { return name.second == dtype; });
  require(known != kNames.end(), "dtype {} is not supported", dtype);
  const Shape shape{std::span<const Index>(extents)};
  const auto numel = static_cast<std::uint64_t>(shape.numel());
  require(numel <= data_bytes && numel * size_of(known->first) == end - begin, "{} {} does not take {} bytes",
          dtype, shape, end - begin);
  return {known->first, shape, data_begin + begin, data_begin + end};
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

SafetensorsFile read_safetensors(const std::string& path) {
  const std::uint64_t file_bytes = FileDescriptor(path, O_RDONLY).size();
  std::ifstream in(path, std::ios::binary);
  std::array<unsigned char, 8> length_bytes{};
  require(in.read(reinterpret_cast<char*>(length_bytes.data()), 8).good(),
          "{}: too short for a safetensors file", path);
  std::uint64_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | length_bytes[i];
  require(length <= kLargestHeader && length <= file_bytes - 8,
          "{}: a header of {} bytes does not fit the file of {} bytes", path, length, file_bytes);
  std::string text(length, '\0');
  require(in.read(text.data(), static_cast<std::streamsize>(length)).good(), "{}: the header cannot be read",
          path);

  SafetensorsFile file;
  const std::uint64_t data_begin = 8 + length;
  std::string doing = "header";
  try {
    const Json header = Json::parse(text);
    require(header.is_object(), "is not a JSON object");
    for (const auto& [name, json] : header.items()) {
      doing = name;
      if (name == "__metadata__")
        file.metadata = json.get<std::map<std::string, std::string>>();
      else
        file.tensors.emplace(name, parse_entry(json, data_begin, file_bytes - data_begin));
    }
    doing = "data";
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
    for (const auto& [name, entry] : file.tensors) ranges.emplace_back(entry.begin, entry.end);
    std::sort(ranges.begin(), ranges.end());
    std::uint64_t at = data_begin;
    for (const auto& [begin, end] : ranges) {
      require(begin == at, "tensors {} at byte {}", begin < at ? "overlap" : "leave a gap",
              std::min(begin, at));
      at = end;
    }
    require(at == file_bytes, "tensors end at byte {} of {}", at, file_bytes);
  } catch (const Json::exception& error) {
    fail("{}: {}: {}", path, doing, error.what());
  } catch (const Error& error) {
    fail("{}: {}: {}", path, doing, error.what());
  }
  return file;
}

}  // namespace conclave

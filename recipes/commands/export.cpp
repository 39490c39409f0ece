#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "core/file.h"
#include "core/print_line.h"
#include "parallel/checkpoint/safetensors.h"
#include "recipes/commands/commands.h"
#include "recipes/inference/exported_model.h"
#include "recipes/models/loaded_model.h"
#include "recipes/onnx/classifier.h"

namespace conclave::commands {
namespace {

// Whether the file begins as an export of that format does, or is empty.
bool is_export(const std::string& path, const std::string& format) {
  std::array<char, 1024> head{};
  std::ifstream file(path, std::ios::binary);
  if (!file) return false;
  file.read(head.data(), head.size());
  const std::string_view begins(head.data(), static_cast<std::size_t>(file.gcount()));
  const std::string_view ours = format == "hdf5"          ? "conclave-model"
                                : format == "safetensors" ? "{\"__metadata__\":{\"class_names\":"
                                                          : "conclave";
  return begins.empty() || begins.find(ours) != std::string_view::npos;
}

// Only an earlier export may be replaced: a checkpoint can have the same extension as an export.
void expect_replaceable(const ExportArguments& arguments) {
  const std::string& output = arguments.output;
  std::error_code none;
  require(!std::filesystem::exists(output, none) || is_export(output, export_format(arguments)),
          "export: {} is there already, and no earlier export; remove it, or name another file", output);
}

// Several ranks would all write the same file.
void expect_alone(int ranks) { require(ranks == 1, "export runs in one process, not in {}", ranks); }

}  // namespace

std::string export_format(const ExportArguments& arguments) {
  if (!arguments.format.empty()) return arguments.format;
  for (const auto& [end, format] :
       {std::pair{".h5", "hdf5"}, {".hdf5", "hdf5"}, {".safetensors", "safetensors"}, {".onnx", "onnx"}})
    if (arguments.output.ends_with(end)) return format;
  return "";
}

int export_weights(const ExportArguments& arguments, const ProcessEnvironment& surroundings) {
  const std::string format = export_format(arguments);
  require(!format.empty(), "{}: name the output *.h5, *.safetensors or *.onnx, or give its --format",
          arguments.output);
  require(arguments.overrides.empty(), "--set changes what is computed, and is for ONNX files only");
  expect_alone(surroundings.ranks);
  expect_replaceable(arguments);
  const CheckpointReader reader(find_checkpoint(arguments.checkpoint, Verify::model));
  (format == "hdf5" ? export_hdf5 : export_safetensors)(reader, arguments.output, export_notes(reader));
  fmt::print("{}\n", arguments.output);
  return 0;
}

int export_graph(const ExportArguments& arguments, const ProcessEnvironment& /*surroundings*/,
                 const MpiSession& session) {
  const ProcessGrid grid(session.world(), 0);
  expect_alone(grid.world().size());
  expect_replaceable(arguments);
  LoadedModel loaded(arguments.checkpoint, grid, arguments.overrides);
  const QuantizationRecipe& quantization = loaded.recipe().quantization;
  if (quantization.enabled && quantization.activation_bits > 7)
    warn(fmt::format(
        "quantization.activation_bits = {}: on processors without VNNI, ONNX Runtime adds products of such "
        "inputs in 16 bits, which is too few; export a model with 7, or use this one on other processors",
        quantization.activation_bits));
  write_file_atomically(arguments.output, onnx::classifier_file(loaded));
  fmt::print("{}\n", arguments.output);
  return 0;
}

}  // namespace conclave::commands

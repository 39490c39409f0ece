#include <fcntl.h>
#include <fmt/format.h>

#include "parallel/checkpoint/durable_file.h"
#include "parallel/checkpoint/safetensors.h"
#include "recipes/commands/commands.h"
#include "recipes/exported_model.h"
#include "recipes/loaded_model.h"
#include "recipes/onnx/classifier.h"

namespace conclave::commands {
namespace {

void write_onnx(const ExportArguments& arguments, const MpiSession& session) {
  const ProcessGrid grid(session.world(), 0);
  require(grid.world().size() == 1, "export runs in one process, not in {}", grid.world().size());
  LoadedModel loaded(arguments.checkpoint, grid, arguments.overrides);
  const std::string bytes = onnx::classifier_file(loaded);
  AtomicFile file(arguments.output);
  {
    FileDescriptor out(file.temporary(), O_WRONLY | O_CREAT | O_TRUNC);
    out.reserve(bytes.size());
    out.write(bytes.data(), bytes.size());
  }
  file.commit();
}

}  // namespace

std::string export_format(const ExportArguments& arguments) {
  if (!arguments.format.empty()) return arguments.format;
  for (const auto& [end, format] :
       {std::pair{".h5", "hdf5"}, {".hdf5", "hdf5"}, {".safetensors", "safetensors"}, {".onnx", "onnx"}})
    if (arguments.output.ends_with(end)) return format;
  fail("{}: name the output *.h5, *.safetensors or *.onnx, or give its --format", arguments.output);
}

int export_weights(const ExportArguments& arguments) {
  require(arguments.overrides.empty(), "--set changes what is computed, and so is for ONNX files alone");
  const CheckpointReader reader(find_checkpoint(arguments.checkpoint));
  if (export_format(arguments) == "hdf5")
    export_hdf5(reader, arguments.output, export_notes(reader));
  else
    export_safetensors(reader, arguments.output, export_notes(reader));
  fmt::print("{}\n", arguments.output);
  return 0;
}

int export_graph(const ExportArguments& arguments, const MpiSession& session) {
  write_onnx(arguments, session);
  fmt::print("{}\n", arguments.output);
  return 0;
}

}  // namespace conclave::commands

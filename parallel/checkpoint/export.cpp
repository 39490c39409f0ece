// Only one rank writes an export, so this uses HDF5 without MPI-IO.
#include "parallel/checkpoint/export.h"

#include "core/durable_file.h"
#include "parallel/checkpoint/hdf5_structure.h"

namespace conclave {
namespace {

constexpr std::string_view kModel = "model/";

}  // namespace

std::vector<std::string> model_tensors(const CheckpointReader& checkpoint) {
  std::vector<std::string> names;
  for (std::string& name : checkpoint.names())
    if (name.starts_with(kModel)) names.push_back(std::move(name));
  require(!names.empty(), "export: checkpoint {} has no tensors below {}", checkpoint.path(), kModel);
  return names;
}

std::string exported_name(const std::string& name) { return name.substr(kModel.size()); }

void export_hdf5(const CheckpointReader& checkpoint, const std::string& path, const ExportNotes& notes) {
  const auto names = model_tensors(checkpoint);
  std::vector<Xxh3Digest> checksums;
  for (const std::string& name : names) {
    const Tensor values = checkpoint.read(name);
    checksums.push_back(xxh3_128(values.raw(), values.bytes()));
  }
  const Hdf5Lock lock;
  AtomicFile file(path);
  lay_out_hdf5(file.temporary(), [&](Hdf5Structure& out) {
    out.attribute("format", "conclave-model");
    out.attribute("recipe", checkpoint.state().recipe);
    out.attribute("recipe_name", notes.recipe_name);
    out.attribute("step", checkpoint.state().step);
    out.attribute("quantization", notes.quantization);
    if (!notes.class_names.empty()) out.texts("class_names", notes.class_names);
    if (!notes.pieces.empty()) {
      out.texts("tokenizer/pieces", notes.pieces);
      out.floats("tokenizer/scores", notes.piece_scores);
      out.bytes("tokenizer/model", notes.tokenizer);
    }
    for (std::size_t i = 0; i < names.size(); ++i) {
      const Hdf5Id tensor = out.tensor(exported_name(names[i]), checkpoint.shape(names[i]),
                                       checkpoint.dtype(names[i]), {&checksums[i], 1});
      if (const auto found = notes.of_tensors.find(names[i]); found != notes.of_tensors.end())
        for (const auto& [name, value] : found->second)
          std::visit([&](const auto& of) { write_attribute(tensor, name.c_str(), of); }, value);
    }
  });
  {
    Hdf5Id out = open_hdf5(file.temporary(), true);
    for (const std::string& name : names) {
      const Tensor values = checkpoint.read(name);
      const std::string doing = fmt::format("export to {}: tensor {}", path, exported_name(name));
      const Hdf5Id dataset(H5Dopen2(out, exported_name(name).c_str(), H5P_DEFAULT), H5Dclose, doing);
      write_rows(dataset, values.shape(), values.dtype(), 0, values.rank() == 0 ? 1 : values.size(0),
                 values.raw());
    }
    out.close(fmt::format("export to {}: cannot be closed", path));
  }
  file.commit();
}

}  // namespace conclave

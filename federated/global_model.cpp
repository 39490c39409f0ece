#include "federated/global_model.h"

namespace conclave {

ModelLayout layout_of(const CheckpointReader& reader) {
  ModelLayout layout;
  for (const std::string& name : reader.names()) {
    if (!name.starts_with("model/") || reader.dtype(name) != DType::f32) continue;
    layout.parts.push_back({name, reader.shape(name), reader.sharded(name), layout.elements});
    layout.elements += static_cast<std::size_t>(layout.parts.back().shape.numel());
  }
  require(layout.elements > 0, "{}: has no model to train", reader.path());
  return layout;
}

GlobalModel::GlobalModel(const std::string& path) {
  const CheckpointReader reader(path);
  layout_ = layout_of(reader);
  state_ = reader.state();
  values_ = Tensor::empty({static_cast<Index>(layout_.elements)});
  for (const auto& [name, shape, sharded, offset] : layout_.parts) {
    const auto first = static_cast<Index>(offset);
    const Tensor part = values_.rows(first, first + shape.numel()).reshape(shape);
    entries_.push_back({name, part, shape, 0, sharded});
    reader.read(entries_.back());
  }
  for (const std::string& name : reader.names())  // what training does not change by gradients, say bigrams
    if (name.starts_with("model/") && reader.dtype(name) != DType::f32)
      entries_.push_back({name, reader.read(name), reader.shape(name), 0, reader.sharded(name)});
}

}  // namespace conclave

#include "federated/global_model.h"

#include <algorithm>
#include <map>
#include <set>

namespace conclave {
namespace {

constexpr std::string_view kModel = "model/";

// "layers.0.moe" for "layers.0.moe.router.weight"; "" for a tensor outside such a layer.
std::string moe_layer_of(const std::string& name) {
  const auto at = name.rfind(".moe.");
  return at == std::string::npos ? std::string() : name.substr(0, at + 4);
}
bool is_of_router(const std::string& name) { return name.find(".moe.router.") != std::string::npos; }

// The numbers of rows that tensors of one layer have.
struct ExpertRows {
  std::set<Index> of_kinds, of_router;

  // A tensor of experts has one row per expert of its kind; a router has one per expert of any kind.
  bool mixed() const {
    if (of_kinds.empty()) return false;
    return of_kinds.size() > 1 || (!of_router.empty() && !of_router.contains(*of_kinds.begin()));
  }
};

}  // namespace

ModelLayout layout_of(const CheckpointReader& reader) {
  ModelLayout layout;
  for (const std::string& name : reader.names()) {
    if (!name.starts_with(kModel) || reader.dtype(name) != DType::f32) continue;
    layout.parts.push_back({name, reader.shape(name), reader.sharded(name), layout.elements});
    layout.elements += static_cast<std::size_t>(layout.parts.back().shape.numel());
  }
  require(layout.elements > 0, "{}: has no model to train", reader.path());
  return layout;
}

std::vector<FlatParameter> flat_parameters(const ModelLayout& layout) {
  std::vector<FlatParameter> parameters;
  std::map<std::string, ExpertRows> layers;
  for (const auto& part : layout.parts) {
    std::string name = part.name.substr(kModel.size());
    std::ranges::replace(name, '/', '.');
    if (part.shape.rank() > 0 && (part.sharded || is_of_router(name))) {
      ExpertRows& rows = layers[moe_layer_of(name)];
      (part.sharded ? rows.of_kinds : rows.of_router).insert(part.shape[0]);
    }
    parameters.push_back({.name = std::move(name), .shape = part.shape});
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    FlatParameter& parameter = parameters[i];
    const bool sharded = layout.parts[i].sharded;
    const std::string layer = moe_layer_of(parameter.name);
    if (layer.empty() || parameter.shape.rank() == 0 || (!sharded && !is_of_router(parameter.name))) continue;
    const ExpertRows& rows = layers.at(layer);
    parameter.mixed = rows.mixed();
    if (!parameter.mixed && rows.of_kinds.contains(parameter.shape[0])) parameter.layer = layer;
  }
  return parameters;
}

std::string control_name(const std::string& model) { return "control/" + model.substr(kModel.size()); }

GlobalModel::GlobalModel(const std::string& path, ControlVariate control, const std::string& folder) {
  const CheckpointReader reader(path);
  layout_ = layout_of(reader);
  state_ = reader.state();
  const std::size_t elements = layout_.elements;
  vectors_.emplace(control == ControlVariate::none ? elements : 2 * elements, folder);
  const auto add = [&](const std::string& name, const ModelLayout::Part& part, std::size_t vector) {
    float* const first = &vectors()[vector * elements + part.offset];
    entries_.push_back({name, Tensor::borrow(first, part.shape, DType::f32), part.shape, 0, part.sharded});
  };
  for (const ModelLayout::Part& part : layout_.parts) {
    add(part.name, part, 0);
    reader.read(entries_.back());
  }
  for (const std::string& name : reader.names())  // tensors without gradients, such as bigrams
    if (name.starts_with(kModel) && reader.dtype(name) != DType::f32)
      entries_.push_back({name, reader.read(name), reader.shape(name), 0, reader.sharded(name)});
  if (control != ControlVariate::none)
    for (const ModelLayout::Part& part : layout_.parts) {
      add(control_name(part.name), part, 1);
      if (control == ControlVariate::stored && reader.has(entries_.back().name)) reader.read(entries_.back());
    }
  give_back();
}

}  // namespace conclave

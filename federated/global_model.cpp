#include "federated/global_model.h"

#include <algorithm>
#include <map>

namespace conclave {
namespace {

constexpr std::string_view kModel = "model/";

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
  constexpr std::string_view kRouter = ".moe.router.";
  std::vector<FlatParameter> parameters;
  std::map<std::string, Index>
      experts;  // by layer; of kinds that are mixed, none of a router's rows are known
  const auto layer_of = [](const std::string& name) {
    const auto at = name.rfind(".moe.");
    return at == std::string::npos ? std::string() : name.substr(0, at + 4);
  };
  for (const auto& part : layout.parts) {
    std::string name = part.name.substr(kModel.size());
    std::ranges::replace(name, '/', '.');
    const std::string layer = part.sharded ? layer_of(name) : "";
    if (!layer.empty()) {
      const auto [found, first] = experts.emplace(layer, part.shape[0]);
      if (!first && found->second != part.shape[0]) found->second = -1;
    }
    parameters.push_back({.name = std::move(name), .shape = part.shape, .layer = layer});
  }
  for (FlatParameter& parameter : parameters) {
    if (!parameter.layer.empty() || parameter.name.find(kRouter) == std::string::npos) continue;
    const auto found = experts.find(layer_of(parameter.name));
    if (found != experts.end() && parameter.shape.rank() > 0 && parameter.shape[0] == found->second)
      parameter.layer = found->first;
  }
  return parameters;
}

std::string control_name(const std::string& model) { return "control/" + model.substr(kModel.size()); }

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
    if (name.starts_with(kModel) && reader.dtype(name) != DType::f32)
      entries_.push_back({name, reader.read(name), reader.shape(name), 0, reader.sharded(name)});
}

void GlobalModel::add_control(const CheckpointReader& reader, bool goes_on) {
  control_ = Tensor::zeros({static_cast<Index>(layout_.elements)});
  for (const auto& [name, shape, sharded, offset] : layout_.parts) {
    const auto first = static_cast<Index>(offset);
    const Tensor part = control_.rows(first, first + shape.numel()).reshape(shape);
    entries_.push_back({control_name(name), part, shape, 0, sharded});
    if (goes_on && reader.has(entries_.back().name)) reader.read(entries_.back());
  }
}

}  // namespace conclave

#include "recipes/model_state.h"

#include <algorithm>

namespace conclave {
namespace {

TensorEntry entry(const std::string& prefix, const Parameter& parameter, const Tensor& values) {
  return {tensor_path(prefix, parameter.name), values, parameter.global_shape(), parameter.first_row,
          parameter.sharded};
}

// What a model has beside its parameters.
void add_state(TextClassifier& model, std::vector<TensorEntry>& entries) {
  const auto add = [&](const std::string& name, const Tensor& values) {
    entries.push_back({tensor_path("model", name), values, values.shape(), 0, false});
  };
  for (const auto& [name, layer] : model.moe_layers())
    for (const auto& state : layer->balancer().state())
      if (!state.training_only) add(name + ".router." + state.name, state.values);
  if (model.wide()) add("wide.bigrams", model.wide()->bigrams());
}

}  // namespace

std::string tensor_path(const std::string& prefix, const std::string& parameter) {
  std::string path = prefix + "/" + parameter;
  std::ranges::replace(path, '.', '/');
  return path;
}

std::vector<TensorEntry> model_entries(const ParameterSet& parameters, TextClassifier& model) {
  std::vector<TensorEntry> entries;
  for (const Parameter* parameter : parameters.parameters())
    entries.push_back(entry("model", *parameter, parameter->value));
  add_state(model, entries);
  return entries;
}

std::vector<TensorEntry> training_entries(const ParameterSet& parameters, TextClassifier& model,
                                          const AdamW& optimizer) {
  std::vector<TensorEntry> entries;
  for (const Parameter* parameter : parameters.parameters()) {
    if (optimizer.has_average()) {
      entries.push_back(entry("model", *parameter, optimizer.average(*parameter)));
      entries.push_back(entry("optimizer/trained", *parameter, parameter->value));
    } else {
      entries.push_back(entry("model", *parameter, parameter->value));
    }
    entries.push_back(entry("optimizer/first_moment", *parameter, optimizer.first_moment(*parameter)));
    entries.push_back(entry("optimizer/second_moment", *parameter, optimizer.second_moment(*parameter)));
  }
  add_state(model, entries);
  for (const auto& [name, layer] : model.moe_layers())
    for (const auto& state : layer->balancer().state())
      if (state.training_only)
        entries.push_back(
            {tensor_path("balancer", name + "." + state.name), state.values, state.values.shape(), 0, false});
  return entries;
}

}  // namespace conclave

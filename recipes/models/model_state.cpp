#include "recipes/models/model_state.h"

#include <algorithm>

namespace conclave {
namespace {

TensorEntry entry(const std::string& prefix, const Parameter& parameter, const Tensor& values) {
  return {tensor_path(prefix, parameter.name), values, parameter.global_shape(), parameter.first_row,
          parameter.sharded};
}

TensorEntry whole(const std::string& path, const Tensor& values) {
  return {path, values, values.shape(), 0, false};
}

// What a model has besides its parameters; `optimizer`: while it is trained.
void add_state(const ParameterSet& parameters, Model& model, const AdamW* optimizer,
               std::vector<TensorEntry>& entries) {
  const bool training = optimizer != nullptr;
  for (const Buffer* buffer : parameters.buffers()) {
    const bool averaged = training && optimizer->has_average() && !buffer->on_host;
    entries.push_back(
        whole(tensor_path("model", buffer->name), averaged ? optimizer->average(*buffer) : buffer->values));
    if (averaged) entries.push_back(whole(tensor_path("optimizer/trained", buffer->name), buffer->values));
  }
  for (const auto& [name, layer] : model.moe_layers())
    for (const auto& [what, values, training_only] : layer->balancer().state())
      if (training || !training_only)
        entries.push_back(whole(training_only ? tensor_path("balancer", name + "." + what)
                                              : tensor_path("model", name + ".router." + what),
                                values));
  if (model.wide()) entries.push_back(whole(tensor_path("model", "wide.bigrams"), model.wide()->bigrams()));
}

}  // namespace

std::string tensor_path(const std::string& prefix, const std::string& parameter) {
  std::string path = prefix + "/" + parameter;
  std::ranges::replace(path, '.', '/');
  return path;
}

std::vector<TensorEntry> parameter_entries(const std::string& prefix, const ParameterSet& parameters,
                                           const std::vector<Tensor>& flat) {
  std::vector<TensorEntry> entries;
  for (const Parameter* parameter : parameters.parameters()) {
    const std::size_t segment = parameters.segment_of(*parameter);
    entries.push_back(entry(prefix, *parameter, parameters.part(segment, flat[segment], *parameter)));
  }
  return entries;
}

std::vector<TensorEntry> model_entries(const ParameterSet& parameters, Model& model) {
  std::vector<TensorEntry> entries;
  for (const Parameter* parameter : parameters.parameters())
    entries.push_back(entry("model", *parameter, parameter->value));
  add_state(parameters, model, nullptr, entries);
  return entries;
}

std::vector<TensorEntry> training_entries(const ParameterSet& parameters, Model& model,
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
  add_state(parameters, model, &optimizer, entries);
  return entries;
}

}  // namespace conclave

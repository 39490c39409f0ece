#include "recipes/models/integer_state.h"

#include <algorithm>

namespace conclave {
namespace {

// A weight in integers, and its scales.
struct IntegerEntries {
  TensorEntry integers, scale;
};

IntegerEntries integers_of(const Quantizer& quantizer) {
  const Parameter& weight = quantizer.weight_parameter();
  const auto entry = [&](const std::string& name, DType dtype, Shape shape, Shape global) {
    return TensorEntry{name, Tensor::empty(shape, dtype), global, weight.first_row, weight.sharded};
  };
  const std::string name = tensor_path("model", weight.name);
  const Shape global = weight.global_shape();
  return {
      entry(name, DType::i8, weight.shape, global),
      entry(name + "_scale", DType::f32, quantizer.scale_shape(weight.shape), quantizer.scale_shape(global))};
}

// What a quantizer has besides its layer's weight.
bool is_learned_by_quantizers(const std::string& tensor) {
  return std::ranges::any_of(
      std::initializer_list<std::string_view>{"/weight_factor", "/input_factor", "/input/range",
                                              "/input/rows", "/input/histogram"},
      [&](std::string_view end) { return tensor.ends_with(end); });
}

}  // namespace

std::vector<TensorEntry> integer_entries(const ParameterSet& parameters, Model& model) {
  std::vector<TensorEntry> entries = model_entries(parameters, model);
  for (const Quantizer* quantizer : model.quantization()->quantizers) {
    const IntegerEntries found = integers_of(*quantizer);
    quantizer->weight_integers(found.integers.values, found.scale.values);
    *std::ranges::find(entries, found.integers.name, &TensorEntry::name) = found.integers;
    entries.push_back(found.scale);
  }
  return entries;
}

void expect_no_integers(const CheckpointReader& reader, std::span<const TensorEntry> entries) {
  for (const TensorEntry& entry : entries)
    require(
        entry.values.dtype() == DType::i8 || !reader.has(entry.name) || reader.dtype(entry.name) != DType::i8,
        "{}: its weights are integers, made by conclave quantize; such a model can be neither trained nor "
        "used without quantization",
        reader.path());
}

void load_model(const CheckpointReader& reader, const ParameterSet& parameters, Model& model,
                bool unquantized_too) {
  std::vector<TensorEntry> entries = model_entries(parameters, model);
  for (const TensorEntry& entry : entries)
    require(
        unquantized_too || reader.has(entry.name) || !is_learned_by_quantizers(entry.name),
        "{}: the model was not trained with this quantization, and has no {}; conclave quantize makes one "
        "that has, or set quantization.activations=token and quantization.learned=false",
        reader.path(), entry.name);
  std::erase_if(entries, [&](const TensorEntry& entry) {
    return !reader.has(entry.name) && is_learned_by_quantizers(entry.name);
  });
  struct Restored {
    const Quantizer* quantizer;
    IntegerEntries from;
  };
  std::vector<Restored> restored;
  if (Quantization* quantization = model.quantization())
    for (const Quantizer* quantizer : quantization->quantizers) {
      const std::string name = tensor_path("model", quantizer->weight_parameter().name);
      if (!reader.has(name) || reader.dtype(name) != DType::i8) continue;
      restored.push_back({quantizer, integers_of(*quantizer)});
      *std::ranges::find(entries, name, &TensorEntry::name) = restored.back().from.integers;
      entries.push_back(restored.back().from.scale);
    }
  expect_no_integers(reader, entries);
  reader.load(entries);
  for (const auto& [quantizer, from] : restored)
    quantizer->take_integers(from.integers.values, from.scale.values);
}

}  // namespace conclave

#include "recipes/models/quantized_model.h"

#include <algorithm>

namespace conclave {
namespace {

const char* name_of(Quantizable::Kind kind) {
  return kind == Quantizable::Kind::linear      ? "linear"
         : kind == Quantizable::Kind::depthwise ? "depthwise"
                                                : "convolutions";
}

}  // namespace

bool quantizes(const QuantizationRecipe& recipe, std::string_view layers) {
  return recipe.enabled && std::ranges::find(recipe.layers, layers) != recipe.layers.end();
}

std::unique_ptr<Quantization> make_quantization(const QuantizationRecipe& recipe) {
  if (!recipe.enabled) return nullptr;
  using Kind = ObserverOptions::Kind;
  auto quantization = std::make_unique<Quantization>();
  quantization->options = {.weight_bits = static_cast<int>(recipe.weight_bits),
                           .activation_bits = static_cast<int>(recipe.activation_bits),
                           .per_token = recipe.activations == "token",
                           .learned = recipe.learned,
                           .observer = {recipe.observer == "min_max"          ? Kind::min_max
                                        : recipe.observer == "moving_average" ? Kind::moving_average
                                                                              : Kind::percentile,
                                        recipe.momentum, recipe.percentile}};
  quantization->rounds = true;
  quantization->for_integers = recipe.inference == "integers";
  return quantization;
}

void quantize_layers(Module& module, const QuantizationRecipe& recipe, Quantization& quantization) {
  for (const auto& [name, child] : module.children()) {
    if (name == "router" && !quantizes(recipe, "router")) continue;
    auto* layer = dynamic_cast<Quantizable*>(child);
    if (!layer)
      quantize_layers(*child, recipe, quantization);
    else if (quantizes(recipe, name_of(layer->quantizable_kind())))
      layer->quantize(quantization);
  }
}

RangeLearning::RangeLearning(Quantization& quantization, Communicator& world)
    : quantization_(quantization), world_(world) {
  for (RangeObserver* observer : quantization.observers) {
    observer->forget();  // the batches that memory was planned with
    least_.resize(least_.size() + observer->least().size());
    sums_.resize(sums_.size() + observer->sums().size());
  }
}

void RangeLearning::learn() {
  if (quantization_.observers.empty()) return;
  // Copies a part of every observer into `all`, combines it over the ranks, and copies it back.
  const auto exchange = [&](std::vector<double>& all, auto part, Reduction reduction) {
    auto at = all.begin();
    for (RangeObserver* observer : quantization_.observers) at = std::ranges::copy(part(*observer), at).out;
    world_.all_reduce(Tensor::borrow(all.data(), {static_cast<Index>(all.size())}, DType::f64), reduction);
    at = all.begin();
    for (RangeObserver* observer : quantization_.observers) {
      const auto to = part(*observer);
      std::copy_n(at, to.size(), to.begin());
      at += static_cast<std::ptrdiff_t>(to.size());
    }
  };
  exchange(
      least_, [](RangeObserver& observer) { return observer.least(); }, Reduction::min);
  exchange(
      sums_, [](RangeObserver& observer) { return observer.sums(); }, Reduction::sum);
  for (RangeObserver* observer : quantization_.observers) observer->learn();
}

}  // namespace conclave

// Applies a recipe's [quantization] to a model's layers, and learns the ranges of their inputs in training.
#pragma once

#include <vector>

#include "autograd/nn/quantizer.h"
#include "parallel/communicator.h"
#include "recipes/settings/recipe.h"

namespace conclave {

/// Null if the model is not quantized.
std::unique_ptr<Quantization> make_quantization(const QuantizationRecipe& recipe);
/// Whether the recipe quantizes, and quantization.layers names these.
bool quantizes(const QuantizationRecipe& recipe, std::string_view layers);

/// Quantizes the layers in `module` that the recipe names. Experts are left out, because they are quantized
/// when they are built. Routers are left out, too, unless the recipe names them.
void quantize_layers(Module& module, const QuantizationRecipe& recipe, Quantization& quantization);

/// Combines the observers' statistics over the ranks.
class RangeLearning {
 public:
  /// Both must outlive the object; `quantization` must already have all its observers.
  RangeLearning(Quantization& quantization, Communicator& world);
  /// Collective, once a step: every rank's observers learn from the inputs of all ranks.
  void learn();

 private:
  Quantization& quantization_;
  Communicator& world_;
  std::vector<double> least_, sums_;
};

}  // namespace conclave

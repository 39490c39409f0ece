// How a recipe's [quantization] reaches a model's layers, and what they learn of their inputs' ranges while
// it trains.
#pragma once

#include <vector>

#include "autograd/nn/quantizer.h"
#include "parallel/communicator.h"
#include "recipes/recipe.h"

namespace conclave {

/// Null where the model is not quantized.
std::unique_ptr<Quantization> make_quantization(const QuantizationRecipe& recipe);
/// Whether quantization.layers names these.
bool quantizes(const QuantizationRecipe& recipe, std::string_view layers);

/// Quantizes what is in `module` of the layers that the recipe names, but for experts, which are so from
/// their beginning. Routers are left out unless they are named.
void quantize_layers(Module& module, const QuantizationRecipe& recipe, Quantization& quantization);

/// Combines what observers have seen.
class RangeLearning {
 public:
  /// Both must outlive it; `quantization` is complete.
  RangeLearning(Quantization& quantization, Communicator& world);
  /// Collective, once a step: all ranks' observers learn of what all have seen.
  void learn();

 private:
  Quantization& quantization_;
  Communicator& world_;
  std::vector<double> least_, sums_;
};

}  // namespace conclave

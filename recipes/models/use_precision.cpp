#include "recipes/models/use_precision.h"

#include "core/precision.h"

namespace conclave {

void use_precision(const RunRecipe& run) { set_precision(precision_from(run.precision)); }

std::string describe_precision(const RunRecipe& run, Device device) {
  const Precision precision = precision_from(run.precision);
  if (precision == Precision::f32) return "";
  if (device == Device::cuda) return fmt::format(", products in {}", name_of(precision));
  return fmt::format(", products in f32, as run.precision = \"{}\" is for CUDA devices", name_of(precision));
}

}  // namespace conclave

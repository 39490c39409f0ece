#include "recipes/models/use_precision.h"

#include <catch2/catch.hpp>

#include "core/precision.h"

namespace conclave {
namespace {

TEST_CASE("run.precision applies to all products and is reported unless f32") {
  RunRecipe run;
  const auto said = [&](const char* chosen, Device device) {
    run.precision = chosen;
    const Precision before = precision();
    const std::string description = describe_precision(run, device);
    CHECK(precision() == before);
    use_precision(run);
    return description;
  };
  CHECK(said("bf16", Device::cuda) == ", products in bf16");
  CHECK(precision() == Precision::bf16);
  CHECK(said("tf32", Device::cpu) == ", products in f32, as run.precision = \"tf32\" is for CUDA devices");
  CHECK(precision() == Precision::tf32);
  for (const Device device : {Device::cpu, Device::cuda}) CHECK(said("f32", device).empty());
  CHECK(precision() == Precision::f32);
}

}  // namespace
}  // namespace conclave

#include "core/device.h"

#include "core/cuda/memory.h"

namespace conclave {

std::string_view name_of(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

void synchronize(Device device) {
  if constexpr (kBuiltWithCuda)
    if (device == Device::cuda) cuda::synchronize();
}

}  // namespace conclave

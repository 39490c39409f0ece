#include "core/device.h"

namespace conclave {

std::string_view name_of(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

}  // namespace conclave

// Where a tensor lives, and whether this machine can run what was built.
#pragma once

#include <cstdint>
#include <string_view>

namespace conclave {

enum class Device : std::uint8_t { cpu, cuda };

std::string_view name_of(Device device);

/// Always true; naming it keeps the start-up check of the processor (device_check.cpp) in a static link.
extern const bool processor_checked;

}  // namespace conclave

// Where a tensor lives, and whether this machine can run what was built.
#pragma once

#include <cstdint>
#include <string_view>

namespace conclave {

enum class Device : std::uint8_t { cpu, cuda };

std::string_view name_of(Device device);

/// Whether the CUDA kernels, NAME.cu beside NAME.cpp, are part of this build.
#if defined(CONCLAVE_CUDA) && CONCLAVE_CUDA
inline constexpr bool kBuiltWithCuda = true;
#else
inline constexpr bool kBuiltWithCuda = false;
#endif

/// Always true; naming it keeps the start-up check of the processor (device_check.cpp) in a static link.
extern const bool processor_checked;

}  // namespace conclave

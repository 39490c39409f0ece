// Where a tensor lives, and whether this machine can run what was built.
#pragma once

#include <cstdint>
#include <string_view>

namespace conclave {

enum class Device : std::uint8_t { cpu, cuda };

std::string_view name_of(Device device);

/// Whether the CUDA backend, NAME.cu beside NAME.cpp, is part of this build; for files of core and parallel,
/// as the others are compiled alike for both.
#if defined(CONCLAVE_CUDA) && CONCLAVE_CUDA
constexpr bool kBuiltWithCuda = true;
#else
constexpr bool kBuiltWithCuda = false;
#endif

/// Waits for all that this thread has queued on the device.
void synchronize(Device device);

/// Always true; naming it keeps the start-up check of the processor (device_check.cpp) in a static link.
extern const bool processor_checked;

}  // namespace conclave

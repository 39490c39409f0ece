// Where a tensor lives, and the check that this processor can run the program.
#pragma once

#include <cstdint>
#include <string_view>

namespace conclave {

enum class Device : std::uint8_t { cpu, cuda };

std::string_view name_of(Device device);

/// Whether this build has the CUDA backend (NAME.cu beside NAME.cpp). For files of core and parallel only:
/// the other folders are compiled in the same way with and without CUDA.
#if defined(CONCLAVE_CUDA) && CONCLAVE_CUDA
constexpr bool kBuiltWithCuda = true;
#else
constexpr bool kBuiltWithCuda = false;
#endif

/// Waits for all work that this thread has queued on the device.
void synchronize(Device device);

/// Always true. A reference to it keeps the processor's check at start-up (device_check.cpp) in a static
/// link.
extern const bool processor_checked;

}  // namespace conclave

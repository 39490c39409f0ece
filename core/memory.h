// How much memory may still be taken, asked before much of it is.
#pragma once

#include <cstddef>
#include <filesystem>

namespace conclave {

/// Bytes that this process may take without swapping or being killed: MemAvailable of /proc/meminfo or, where
/// that is less, what the limits of its control groups (versions 1 and 2) leave. The largest std::size_t
/// where the system says nothing. A moment's answer: other processes take from the same memory. `root` is
/// where /proc and /sys are looked for.
std::size_t available_memory(const std::filesystem::path& root = "/");

}  // namespace conclave

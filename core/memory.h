// How much memory may still be taken, asked before much of it is, and what is thrown where it is too little.
#pragma once

#include <cstddef>
#include <filesystem>

#include "core/error.h"

namespace conclave {

/// There is too little memory, here or on a device. By what to need less of it, those may add who know it.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

/// Bytes that this process may take without swapping or being killed: MemAvailable of /proc/meminfo or, where
/// that is less, what the limits of its control groups (versions 1 and 2) leave. The largest std::size_t
/// where the system says nothing. A moment's answer: other processes take from the same memory. `root` is
/// where /proc and /sys are looked for.
std::size_t available_memory(const std::filesystem::path& root = "/");

}  // namespace conclave

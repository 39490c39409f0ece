// How much memory may still be allocated, and the exception for too little memory.
#pragma once

#include <cstddef>
#include <filesystem>

#include "core/error.h"

namespace conclave {

/// There is too little memory, on this machine or on a device. Callers that know how to need less add it to
/// the message.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

/// Bytes that this process may allocate without swapping or being killed: MemAvailable of /proc/meminfo or,
/// if that is less, what the limits of its control groups (versions 1 and 2) leave. The largest std::size_t
/// if the system reports nothing. A snapshot: other processes allocate from the same memory. `root` is the
/// directory in which proc and sys are looked for.
std::size_t available_memory(const std::filesystem::path& root = "/");

}  // namespace conclave

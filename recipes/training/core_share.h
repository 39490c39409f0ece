// How many threads a rank takes where ranks of the same machine may share its cores.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace conclave {

/// One character per core of the machine: '1' if this process may run on the core, else '0'.
std::string cores_of_process();

/// Threads of a process that may run on the cores `mine`: each core counts 1 / (the number of processes that
/// may run on it); at least 1. `neighbours` are the cores of all processes on the machine, this one included.
std::int64_t threads_for(const std::string& mine, std::span<const std::string> neighbours);

}  // namespace conclave

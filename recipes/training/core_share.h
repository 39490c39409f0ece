// How many threads a rank takes where ranks of the same machine may share its cores, and where they run.
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

/// Binds each of the calling thread's OpenMP threads to a core of its own, if there are as many threads as
/// cores that the process may run on, OpenMP may have so many and does not choose their number, and neither
/// OMP_PROC_BIND, OMP_PLACES nor GOMP_CPU_AFFINITY is set. The first thread's core depends on the process's
/// number. Returns whether it did so. Threads that the caller starts later inherit its one core: start them
/// before.
bool bind_threads();

}  // namespace conclave

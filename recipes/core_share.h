// How many threads a rank takes, of cores that it may share with the other ranks of its machine.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace conclave {

/// A character for each core of the machine, '1' for those that this process may run on.
std::string cores_of_process();

/// Of a process that may run on `mine`: its cores, each divided by the number of processes that may run on
/// it; 1 at least. `neighbours` are those of all processes of the machine, this one's among them.
std::int64_t threads_for(const std::string& mine, std::span<const std::string> neighbours);

}  // namespace conclave

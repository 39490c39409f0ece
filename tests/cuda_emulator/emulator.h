// A CUDA device of the processor's: the project's own .cu files and host code run on it, without a GPU, and
// it is stricter than one.
//
// A block's threads are fibers, which run one at a time, in an order drawn anew at every barrier, from where
// one warp goes ahead as far as it can and another stays behind: what depends on the order gives other
// results, or none. Memory starts as NaN, lies between guards, and its use
// after it was given back is an error. Work on a stream runs when something waits for it, as late as CUDA
// allows, so that a missing wait is seen; what a copy reads from the host must not change before it ran.
//
// What is wrong is a report: the next call that waits returns cudaErrorLaunchFailure, whose text it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace conclave::emulator {

struct Counters {
  std::size_t allocations = 0;  ///< calls of cudaMalloc so far
  std::size_t live = 0;         ///< of these, how many were not given back
  std::size_t launches = 0;     ///< kernels that ran
};
Counters counters();

/// Of the order of threads and blocks.
void set_seed(std::uint64_t seed);

/// Device memory from now on; what is taken stays.
void set_memory(std::size_t bytes);

/// What was wrong since the last call, "" for nothing; the device works again.
std::string take_report();

}  // namespace conclave::emulator

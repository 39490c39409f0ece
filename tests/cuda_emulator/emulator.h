// A CUDA device emulated on the processor. The project's .cu files and host code run on it without a GPU. It
// detects mistakes that a GPU may not show.
//
// Threads: the threads of a block are fibers. They run one at a time, in a random order that changes at every
// barrier, often with one warp far ahead of the others. So results that depend on the order vary.
//
// Memory: device memory starts as NaN and lies between guards. Its use after cudaFree is an error, and an
// access by host code is a segmentation fault. Pinned memory has guards, too, and its use after cudaFreeHost
// is detected.
//
// Streams: work runs when something waits for it, as late as CUDA allows, so that a missing wait shows. Host
// memory that a copy reads must not change before the copy has run. Host memory that a copy writes is NaN
// until then.
//
// Graphs: work queued during a capture becomes a graph, and each launch queues that work again. Waits and
// allocations of the capturing thread are mistakes. So are events, copies from or to the host, and NCCL
// operations in a graph, although a GPU accepts some of them.
//
// Accesses: in .cu files compiled with -fsanitize=thread, which are all but those of the sanitized build,
// every memory access of a kernel is checked. It must be to memory that the kernel may use, and it must not
// race with another thread or with work of another stream. The sanitized build uses AddressSanitizer instead,
// which checks only the former and ends the process.
//
// Differences from a GPU: blocks run one after the other, and a thread runs until it waits, so code that
// spins until another thread acts hangs. Streams without cudaStreamNonBlocking do not wait for the default
// stream.
//
// Libraries: cuBLASLt and cuDNN are emulated, too. Their arguments are checked more strictly than by the
// libraries themselves, and the memory of a product or convolution like that of a copy.
//
// NCCL (include/nccl.h, nccl.cpp) moves tensors between the devices of several processes by MPI. An operation
// waits on its stream for the other processes, while other streams go on. It also runs while the host waits
// in MPI (mpi.cpp) if another process needs it. A mismatch between ranks and a rank that never takes part are
// reports on some of the ranks.
//
// Every mistake is added to a report. The next call that waits returns cudaErrorLaunchFailure, and
// cudaGetErrorString gives the report as its text.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace conclave::emulator {

struct Counters {
  std::size_t allocations = 0;   ///< calls of cudaMalloc so far
  std::size_t live = 0;          ///< allocations that were not freed
  std::size_t live_bytes = 0;    ///< bytes of these allocations
  std::size_t launches = 0;      ///< kernels, products and convolutions that ran
  std::size_t algorithms = 0;    ///< requests to cuBLASLt and cuDNN for an algorithm
  std::size_t copies = 0;        ///< copies that ran, in any direction
  std::size_t copied_bytes = 0;  ///< bytes of these copies
  /// Copies between the device and host memory that is not pinned.
  std::size_t pageable_copies = 0;
  std::size_t pinned_allocations = 0;  ///< calls of cudaHostAlloc so far
  std::size_t pinned_bytes = 0;        ///< pinned bytes that were not freed
  std::size_t captures = 0;            ///< stream captures begun so far
  std::size_t graphs = 0;              ///< graph launches so far
  std::size_t events = 0;              ///< events created so far
};
Counters counters();

/// Bytes that one kernel, copy or fill moved: the 32-byte sectors of device memory that it read and wrote,
/// each counted once. A read after a write by the same launch, or block, comes from a cache and does not
/// count. A product of cuBLASLt or a convolution of cuDNN counts its operands, as of one block, but not its
/// workspace.
struct Traffic {
  std::string what;  ///< "kernel ...", as in a report
  /// Of the launch as a whole: the least that a GPU moves to and from its memory, as the L2 cache keeps what
  /// several blocks read, such as a table or a row of factors. The floor of an operation is compared with
  /// this number.
  std::size_t read = 0, written = 0;
  /// The sum over blocks of what each block touched: the traffic between L1 caches, which serve a block's
  /// repeated reads, and the L2 cache. At least the numbers above, and much more if blocks share data.
  std::size_t read_by_blocks = 0, written_by_blocks = 0;
};
/// Turns counting of traffic on or off; off at the start, as it takes time. Returns false if the accesses of
/// kernels are not checked; their traffic is not counted then.
bool count_traffic(bool on);
/// The traffic of all work that ran since the last call, in order.
std::vector<Traffic> take_traffic();

/// Sets the seed for the order of threads, blocks and streams. CONCLAVE_CUDA_SEED sets it at the start.
void set_seed(std::uint64_t seed);

/// Sets the size of device memory; existing allocations stay. CONCLAVE_CUDA_MEMORY, in MiB, sets it at the
/// start of the process. CONCLAVE_CUDA_COUNTS names a file; at its end the process appends a line with its
/// numbers of allocations, pinned allocations and pageable copies.
void set_memory(std::size_t bytes);
/// Sets the limit of pinned host memory; there is none at the start.
void set_pinned_memory(std::size_t bytes);

/// Sets the shared memory that a block may have: 227 KiB at the start and at most, as of compute
/// capability 9.0.
void set_shared_memory(std::size_t bytes);

/// From now on, of the host calls that may fail, number `call` (from 1) fails with the report "the device
/// broke". 0: none fails.
void break_at(std::size_t call);
/// Sets how long work may wait for other processes without any progress before that is a report.
void set_patience(std::chrono::milliseconds most);

/// Sets what cudaGetDeviceCount returns, a count and a cudaError_t, and the version of cudaDriverGetVersion.
void set_devices(int count, int error = 0, int driver_version = 13000);
/// Errors, each a cudaError_t, that cudaSetDevice, cudaDeviceGetPCIBusId and cudaMemGetInfo return from now
/// on; 0: the function works.
struct DeviceErrors {
  int set_device = 0, bus_id = 0, memory = 0;
};
void set_device_errors(const DeviceErrors& errors);
/// Sets the id that cudaDeviceGetPCIBusId returns, which identifies the device. "": an id that no other
/// process has. CONCLAVE_CUDA_BUS_ID sets it at the start of the process.
void set_bus_id(const std::string& id);

/// Sets whether all NCCL communicators of this process have an asynchronous error, as when a peer is lost.
void plant_nccl_error(bool planted);

/// Returns the report of mistakes since the last call, "" if there were none. The device works again
/// afterwards.
std::string take_report();

/// Allocations that were not freed, oldest first: "allocation 3 of 400 bytes".
std::vector<std::string> leaks();

}  // namespace conclave::emulator

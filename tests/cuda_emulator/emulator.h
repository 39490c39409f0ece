// A CUDA device of the processor's: the project's own .cu files and host code run on it, without a GPU, and
// it is stricter than one.
//
// A block's threads are fibers, which run one at a time, in an order drawn anew at every barrier, often one
// warp far ahead of the others: what depends on the order gives other results, or none. Memory starts as NaN,
// lies between guards, and its use after it was given back is an error; so is the host's touching it, which
// is a segmentation fault. Work on a stream runs when something waits for it, as late as CUDA allows, so that
// a missing wait is seen; what a copy reads from the host must not change before it ran, and what it writes
// there is NaN until then. Pinned memory lies between guards, too, and whoever touches it after it was given
// back is seen.
//
// What is queued on a stream while its work is captured becomes a graph, whose launches queue it again. Waits
// and allocations of the thread that captures are reports, and so are events, copies from and to the host and
// NCCL's work in a graph, of which a GPU would take some.
//
// Where a .cu file is compiled with -fsanitize=thread, as it is but in the sanitized build, every access of a
// kernel is looked at: whether it is to memory that the kernel may touch, and whether another thread, or
// another stream's work, touched the same with nothing between them that puts one before the other. The
// sanitized build has AddressSanitizer in its place, which sees the first of these, and ends the process.
//
// It is no GPU in that blocks run one after the other, and threads until they wait: code that spins until
// another thread has done something hangs. Streams that are not cudaStreamNonBlocking do not wait for the
// default stream, either.
//
// cuBLASLt and cuDNN are here, too: what their functions are given is looked at more closely than they do it
// themselves, and what a product or a convolution reads and writes as what a copy does.
//
// NCCL (include/nccl.h, nccl.cpp) moves the tensors of several processes' devices by MPI. Its work waits, on
// its stream, for the other processes', while other streams' goes on, and it runs while the host waits in MPI
// (mpi.cpp) once another process wants it to; what does not fit between the ranks, or
// never comes, is a report on some of them.
//
// What is wrong is a report: the next call that waits returns cudaErrorLaunchFailure, whose text it is.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace conclave::emulator {

struct Counters {
  std::size_t allocations = 0;   ///< calls of cudaMalloc so far
  std::size_t live = 0;          ///< of these, how many were not given back
  std::size_t live_bytes = 0;    ///< and what they hold
  std::size_t launches = 0;      ///< kernels, products and convolutions that ran
  std::size_t algorithms = 0;    ///< that cuBLASLt and cuDNN were asked for
  std::size_t copies = 0;        ///< that ran, of any direction
  std::size_t copied_bytes = 0;  ///< by them
  /// Of these copies, those between the device and memory of the host's that is not pinned.
  std::size_t pageable_copies = 0;
  std::size_t pinned_allocations = 0;  ///< calls of cudaHostAlloc so far
  std::size_t pinned_bytes = 0;        ///< what they hold that was not given back
  std::size_t captures = 0;            ///< of streams, begun so far
  std::size_t graphs = 0;              ///< launched so far
  std::size_t events = 0;              ///< made so far
};
Counters counters();

/// What one kernel, copy or fill moved, in bytes: of the 32-byte sectors of device memory that it read and
/// wrote, each counted once. What was read after the same launch, or block, had written it came from a cache.
/// Of a product of cuBLASLt's or a convolution of cuDNN's, its operands, as of one block: what the library
/// works in is its own affair.
struct Traffic {
  std::string what;  ///< "kernel ...", as in a report
  /// Of the launch as a whole: what a GPU moves to and from its memory at least, as its second cache keeps
  /// what several blocks read, a table or a row of factors. It is this that an operation's floor is held to.
  std::size_t read = 0, written = 0;
  /// The sum over blocks of what each touched: what passes between the first caches, one of which serves a
  /// block's repeated reads, and the second one. No less than the above, and much more where blocks share.
  std::size_t read_by_blocks = 0, written_by_blocks = 0;
};
/// Counts traffic from now on, or no more; off at first, as it takes time. Returns false, and counts nothing
/// of kernels, where accesses are not looked at.
bool count_traffic(bool on);
/// Of what ran since the last call, in that order.
std::vector<Traffic> take_traffic();

/// Of the order of threads, blocks and streams; CONCLAVE_CUDA_SEED sets it at the start of the process.
void set_seed(std::uint64_t seed);

/// Device memory from now on; what is taken stays. CONCLAVE_CUDA_MEMORY, in MiB, sets it at the start of the
/// process; CONCLAVE_CUDA_COUNTS names a file to which its end adds a line with the numbers of allocations,
/// of pinned ones and of pageable copies.
void set_memory(std::size_t bytes);
/// Pinned memory of the host's from now on, as much as anyone wants at first.
void set_pinned_memory(std::size_t bytes);

/// Of the host's calls from now on that may fail, number `call` (from 1) finds the device broken: a report of
/// its own. 0: none.
void break_at(std::size_t call);
/// How long work may wait for other processes with nothing going on; then that is a report.
void set_patience(std::chrono::milliseconds most);

/// What cudaGetDeviceCount says from now on, the count or a cudaError_t, and cudaDriverGetVersion.
void set_devices(int count, int error = 0, int driver_version = 13000);
/// What the functions return from now on that take a device and ask for its bus and its memory, each a
/// cudaError_t; 0: they do their work.
struct DeviceErrors {
  int set_device = 0, bus_id = 0, memory = 0;
};
void set_device_errors(const DeviceErrors& errors);
/// What cudaDeviceGetPCIBusId says, by which devices are told apart; "" for one that no other process has.
/// CONCLAVE_CUDA_BUS_ID sets it at the start of the process.
void set_bus_id(const std::string& id);

/// Whether all NCCL communicators of this process have an asynchronous error, as when a peer is lost.
void plant_nccl_error(bool planted);

/// What was wrong since the last call, "" for nothing; the device works again.
std::string take_report();

/// Allocations that were not given back, oldest first: "allocation 3 of 400 bytes".
std::vector<std::string> leaks();

}  // namespace conclave::emulator

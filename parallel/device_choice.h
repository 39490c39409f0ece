// Which CUDA device a rank computes on.
#pragma once

#include <memory>
#include <string>

#include "parallel/mpi_communicator.h"

namespace conclave {

struct DeviceChoice {
  int device = 0;
  /// Says which ranks of the job share a device, the same text on every rank: "ranks 0, 1 share device ... on
  /// ...". Empty if every rank has a device of its own. NCCL does not support shared devices.
  std::string shared;
};

/// Collective over all ranks of the job. Selects this thread's device: rank i of a node takes device i modulo
/// the number of visible devices (a launcher may also show each rank only one device). Ranks that share a
/// device each plan with an equal part of its free memory from then on (cuda::limit_memory). If a rank has no
/// device, or CUDA cannot use it, throws the same Error on every rank, which names the ranks, the hosts and
/// what to do.
DeviceChoice choose_device(MpiCommunicator& world);

/// Makes a stream on this thread's device the thread's current stream until the result is destroyed. CUDA's
/// default stream waits for other streams, and its work cannot be captured.
std::shared_ptr<void> take_stream();

}  // namespace conclave

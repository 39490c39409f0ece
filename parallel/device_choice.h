// Which CUDA device a rank computes on.
#pragma once

#include <memory>
#include <string>

#include "parallel/mpi_communicator.h"

namespace conclave {

struct DeviceChoice {
  int device = 0;
  /// Which ranks of the job share devices, the same on every rank: "ranks 0, 1 share device ... on ..."; ""
  /// where each has one of its own. NCCL refuses those.
  std::string shared;
};

/// Collective over all ranks of the job. Makes a device of this node this thread's, by the rank's place among
/// those of its node; a launcher may also show each rank one device alone. Ranks that share one are to plan
/// with equal parts of its memory (cuda::limit_memory). Throws the same Error on every rank, naming ranks,
/// hosts and what to do, where one has no device, or one that CUDA does not let it use.
DeviceChoice choose_device(MpiCommunicator& world);

/// A stream on this thread's device, to which the thread's work goes until the result is gone. CUDA's default
/// stream waits for others', and lets none of its work be captured.
std::shared_ptr<void> take_stream();

}  // namespace conclave

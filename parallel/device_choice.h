// Which CUDA device a rank computes on.
#pragma once

#include <memory>

#include "parallel/mpi_communicator.h"

namespace conclave {

/// Collective over all ranks of the job. Makes a device of this node this thread's, by the rank's place among
/// those of its node, and returns its number; a launcher may also show each rank one device alone. Throws the
/// same Error on every rank, naming ranks, hosts and what to do, where one has no device, or two have the
/// same, which NCCL refuses.
int choose_device(MpiCommunicator& world);

/// A stream on this thread's device, to which the thread's work goes until the result is gone. CUDA's default
/// stream waits for others', and lets none of its work be captured.
std::shared_ptr<void> take_stream();

}  // namespace conclave

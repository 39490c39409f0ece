// Where a job computes: on its processors, or on CUDA devices, where each rank has one, its own or shared.
#pragma once

#include <memory>
#include <string>

#include "parallel/mpi_communicator.h"

namespace conclave {

struct DeviceWorld {
  /// On devices, a stream for this thread's work, which goes there while this lives: longer than the world,
  /// and than all that computes.
  std::shared_ptr<void> stream;
  std::unique_ptr<Communicator> world;  ///< of all ranks; its device() is where they compute
  std::string note;     ///< why not on CUDA devices, where these were looked for and not found; else ""
  std::string warning;  ///< that ranks share devices, and what this costs; else ""
};

/// Collective. `wanted`: "cpu"; "cuda", and an Error, the same on every rank, where that cannot be; or
/// "auto": on CUDA devices where every rank has one, else on processors.
DeviceWorld world_on(const std::string& wanted, std::unique_ptr<MpiCommunicator> all);

}  // namespace conclave

// Chooses where a job computes: on its processors, or on CUDA devices, one for each rank, either its own or
// shared.
#pragma once

#include <memory>
#include <string>

#include "parallel/mpi_communicator.h"

namespace conclave {

struct DeviceWorld {
  /// On devices, keeps the stream of this thread's work current. Must outlive the world and everything that
  /// computes.
  std::shared_ptr<void> stream;
  std::unique_ptr<Communicator> world;  ///< all ranks; its device() is where they compute
  std::string note;     ///< why CUDA devices are not used although "auto" looked for them; else ""
  std::string warning;  ///< says that ranks share devices and what this costs; else ""
};

/// Collective. `wanted`: "cpu"; "cuda", which throws the same Error on every rank if some rank has no device
/// that it can use, or the program was built without CUDA; or "auto", which takes CUDA devices if every rank
/// has one, else processors. Throws Error on any other text.
DeviceWorld world_on(const std::string& wanted, std::unique_ptr<MpiCommunicator> all);

}  // namespace conclave

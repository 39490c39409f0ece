#include "parallel/device_world.h"

#include "parallel/device_choice.h"
#include "parallel/nccl_communicator.h"
#include "parallel/staged_communicator.h"

namespace conclave {

DeviceWorld world_on(const std::string& wanted, std::unique_ptr<MpiCommunicator> all) {
  require(wanted == "cpu" || wanted == "cuda" || wanted == "auto",
          "--device {}: there are auto, cpu and cuda", wanted);
  DeviceWorld chosen;
  if constexpr (kBuiltWithCuda) {
    std::string shared;
    try {
      if (wanted != "cpu") shared = choose_device(*all).shared;
    } catch (const Error& error) {
      if (wanted == "cuda") throw;
      chosen.note = error.what();
    }
    if (wanted != "cpu" && chosen.note.empty()) {
      chosen.stream = take_stream();
      if (shared.empty()) {
        chosen.world = std::make_unique<NcclCommunicator>(std::move(all));
        return chosen;
      }
      chosen.world = std::make_unique<StagedCommunicator>(std::move(all));
      chosen.warning = shared +
                       "; NCCL wants one for each rank, so messages go through host memory, which is slower: "
                       "start no more ranks on a host than it has devices";
      return chosen;
    }
  } else {
    require(
        wanted != "cuda",
        "--device cuda: this program was built without CUDA; where the CUDA toolkit and NCCL are installed, "
        "build it again:\n    cmake --preset release -DCONCLAVE_CUDA=ON && cmake --build --preset release");
  }
  chosen.world = std::move(all);
  return chosen;
}

}  // namespace conclave

#include "parallel/device_world.h"

#include "parallel/device_choice.h"
#include "parallel/nccl_communicator.h"

namespace conclave {

DeviceWorld world_on(const std::string& wanted, std::unique_ptr<MpiCommunicator> all) {
  require(wanted == "cpu" || wanted == "cuda" || wanted == "auto",
          "--device {}: there are auto, cpu and cuda", wanted);
  if (wanted == "cpu") return {nullptr, std::move(all), ""};
  if constexpr (kBuiltWithCuda) {
    try {
      choose_device(*all);
    } catch (const Error& error) {
      if (wanted == "cuda") throw;
      return {nullptr, std::move(all), error.what()};
    }
    return {take_stream(), std::make_unique<NcclCommunicator>(std::move(all)), ""};
  } else {
    require(
        wanted != "cuda",
        "--device cuda: this program was built without CUDA; where the CUDA toolkit and NCCL are installed, "
        "build it again:\n    cmake --preset release -DCONCLAVE_CUDA=ON && cmake --build --preset release");
    return {nullptr, std::move(all), ""};
  }
}

}  // namespace conclave

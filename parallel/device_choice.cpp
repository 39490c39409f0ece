#include "parallel/device_choice.h"

#include <cuda_runtime.h>

#include <array>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "core/cuda/stream.h"

namespace conclave {
namespace {

std::string host_name() {
  std::array<char, MPI_MAX_PROCESSOR_NAME> name{};
  int length = 0;
  require(MPI_Get_processor_name(name.data(), &length) == MPI_SUCCESS,
          "choosing a device: MPI has no name for this host");
  return {name.data(), static_cast<std::size_t>(length)};
}

// Differs between hosts of one name, such as copies of one image; "" if the system has none.
std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

int rank_on_node(const MpiCommunicator& world) {
  MPI_Comm node = MPI_COMM_NULL;
  int rank = 0;
  require(MPI_Comm_split_type(world.handle(), MPI_COMM_TYPE_SHARED, world.rank(), MPI_INFO_NULL, &node) ==
                  MPI_SUCCESS &&
              MPI_Comm_rank(node, &rank) == MPI_SUCCESS && MPI_Comm_free(&node) == MPI_SUCCESS,
          "choosing a device: MPI does not say which ranks share this node");
  return rank;
}

// Returns why there is no device, or "" if there is one.
std::string why_none(cudaError_t code, int devices) {
  int driver = 0;
  switch (code) {
    case cudaSuccess:
      if (devices > 0) return "";
      [[fallthrough]];
    case cudaErrorNoDevice:
      return "no CUDA device; the job was given none, or CUDA_VISIBLE_DEVICES hides them";
    case cudaErrorInsufficientDriver:
      if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return "no NVIDIA driver; install one, and in a container start it with access to the GPUs";
      return fmt::format(
          "an NVIDIA driver for CUDA {}.{}, older than the {}.{} of this program; update the driver",
          driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    case cudaErrorStubLibrary:
      return "a stub in place of the NVIDIA driver; take CUDA's folder `stubs` out of LD_LIBRARY_PATH";
    default:
      return fmt::format("no CUDA device: {}", cudaGetErrorString(code));
  }
}

// Calls `use`; returns why it fails on this rank's device, or "".
template <class Use>
std::string why_unusable(int device, Use&& use) {
  try {
    use();
    return "";
  } catch (const Error& error) {
    cudaGetLastError();  // clears the error, which the next call would report
    return fmt::format("CUDA device {}, which cannot be used: {}", device, error.what());
  }
}

// Collective. If any rank has a `problem` that is not "", throws the same Error on every rank.
void agree(MpiCommunicator& world, const std::vector<std::string>& hosts, const std::string& problem) {
  const std::vector<std::string> reasons = world.all_gather(problem);
  std::string problems;
  for (std::size_t rank = 0; rank < reasons.size(); ++rank)
    if (!reasons[rank].empty())
      problems += fmt::format("{}rank {} on {} has {}", problems.empty() ? "" : "; ", rank, hosts[rank],
                              reasons[rank]);
  require(problems.empty(), "choosing a device: {}", problems);
}

}  // namespace

DeviceChoice choose_device(MpiCommunicator& world) {
  const std::string host = host_name();
  const int local = rank_on_node(world);
  int devices = 0, device = 0;
  const cudaError_t code = cudaGetDeviceCount(&devices);
  cudaGetLastError();  // clears the error, which the next call would report
  std::string problem = why_none(code, devices);
  std::array<char, 32> bus_id{};
  if (problem.empty()) {
    device = local % devices;
    problem = why_unusable(device, [&] {
      cuda::check(cudaSetDevice(device), "taking it");
      cuda::check(cudaDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()), device),
                  "asking for its bus");
    });
  }
  const std::vector<std::string> hosts = world.all_gather(host),
                                 ids = world.all_gather(std::string(bus_id.data())),
                                 boots = world.all_gather(boot_id());
  agree(world, hosts, problem);

  const auto place_of = [&](std::size_t rank) { return std::array{hosts[rank], boots[rank], ids[rank]}; };
  std::map<std::array<std::string, 3>, std::vector<std::size_t>> users;  // ranks by host and device
  for (std::size_t rank = 0; rank < ids.size(); ++rank) users[place_of(rank)].push_back(rank);
  DeviceChoice chosen{.device = device, .shared = ""};
  for (const auto& [place, ranks] : users)
    if (ranks.size() > 1)
      chosen.shared += fmt::format("{}ranks {} share device {} on {}", chosen.shared.empty() ? "" : "; ",
                                   fmt::join(ranks, ", "), place[2], place[0]);
  if (!chosen.shared.empty()) {
    world.barrier();  // every rank's CUDA context has now taken its memory
    std::size_t free = 0;
    // agree() also keeps every rank from allocating before all have asked for the free memory.
    agree(world, hosts, why_unusable(device, [&] { free = cuda::free_memory(); }));
    cuda::limit_memory(free / users[place_of(static_cast<std::size_t>(world.rank()))].size());
  }
  return chosen;
}

std::shared_ptr<void> take_stream() {
  struct Taken {
    cuda::Stream stream;
    cuda::StreamScope scope{stream};
  };
  return std::make_shared<Taken>();
}

}  // namespace conclave

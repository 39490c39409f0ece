// Arenas on a device. Only the emulated device counts its memory.
#include "core/arena.h"

#include <catch2/catch.hpp>
#include <limits>

#include "core/cuda/memory.h"
#include "tests/cuda_emulator/emulator.h"

namespace conclave {
namespace {

TEST_CASE("a device arena plans within free memory and allocates one block", "[arena]") {
  const std::size_t before = emulator::counters().live_bytes;
  const auto taken_here = [&] { return emulator::counters().live_bytes - before; };
  emulator::set_memory(before + (std::size_t{80} << 20));
  Arena arena("activations", 0, Device::cuda);
  const auto step = [&] {
    arena.reset();
    const Tensor x = arena.zeros({100, 3});
    CHECK(x.device() == Device::cuda);
    const Tensor noted = arena.empty_on_host({10}, DType::i32);
    CHECK(noted.device() == Device::cpu);
    noted.fill(1);
    arena.copy<Index>(std::vector<Index>{1, 2, 3});
    return cuda::to_host(x).data<float>()[299];
  };
  const auto pageable_copies = [&](const Tensor& on_host) {
    const ArenaTrial trial(arena);
    const std::size_t copies = emulator::counters().pageable_copies;
    on_host.copy_from(arena.zeros({1}));
    return emulator::counters().pageable_copies - copies;
  };
  CHECK(step() == 0);
  CHECK(taken_here() == (std::size_t{16} << 20));
  CHECK_THROWS_WITH(arena.empty({Index{6} << 20}),
                    "arena activations: 24.0 MiB more do not fit, 1.2 KiB of 16.0 MiB are in use; the device "
                    "has no more memory");
  std::size_t taken = 0;
  {
    const ArenaTrial trial(arena);
    arena.empty({1000});
    arena.allocate(500);
    taken = trial.taken().tensors;
    CHECK(trial.taken().host >= 500);
  }
  CHECK(taken >= 4000);
  CHECK(arena.peak() < 4000);
  const Tensor planned = arena.empty_on_host({1});
  CHECK(arena.holds_on_host(planned));
  CHECK(pageable_copies(planned) == 1);
  arena.reset();
  arena.seal();
  CHECK(arena.capacity() == 1216);
  {
    const ArenaScope scope(arena);
    const Tensor pinned = arena.empty_on_host({1}), elsewhere = Tensor::zeros({1});
    CHECK((arena.holds_on_host(pinned) && !arena.holds_on_host(elsewhere)));
    CHECK(pageable_copies(pinned) == 0);
  }
  CHECK(taken_here() == 1216);
  const emulator::Counters sealed = emulator::counters();
  for (int i = 0; i < 3; ++i) CHECK(step() == 0);
  CHECK(emulator::counters().allocations == sealed.allocations);
  CHECK(emulator::counters().pinned_allocations == sealed.pinned_allocations);
  CHECK_THROWS_WITH(arena.empty({64}), Catch::Matchers::Contains("the planning run did not see"));
  CHECK_THROWS_WITH(Arena("parameters", 0, Device::cuda).seal_for(std::size_t{90} << 20),
                    "arena parameters: the device has 80.0 MiB free, and 90.0 MiB are needed");
  emulator::set_memory(std::size_t{4} << 30);
}

TEST_CASE("memory beside a device is pinned, or ordinary if the system refuses that", "[arena]") {
  const Tensor there = cuda::to_device(Tensor::of<float>({3}, {1, 2, 3}));
  const auto pageable_copies = [&](Device device) {
    const Tensor here = Tensor::zeros_beside(device, {3});
    CHECK((here.device() == Device::cpu && here.data<float>()[2] == 0));
    const std::size_t before = emulator::counters().pageable_copies;
    here.copy_from(there);
    CHECK(here.data<float>()[2] == 3);
    return emulator::counters().pageable_copies - before;
  };
  const std::size_t pinned = emulator::counters().pinned_bytes;
  CHECK(pageable_copies(Device::cuda) == 0);
  CHECK(pageable_copies(Device::cpu) == 1);
  emulator::set_pinned_memory(pinned);
  CHECK(pageable_copies(Device::cuda) == 1);
  emulator::set_pinned_memory(std::numeric_limits<std::size_t>::max());
  CHECK(emulator::counters().pinned_bytes == pinned);
  CHECK(Tensor::zeros_beside(Device::cuda, {0}).numel() == 0);
}

}  // namespace
}  // namespace conclave

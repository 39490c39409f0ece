// Communicators on emulated devices: NcclCommunicator, and StagedCommunicator for shared devices. Their
// results equal MPI's, NCCL operations under way delay only the work that waits for them, and mistakes are
// reported.
#include <nccl.h>
#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "parallel/device_choice.h"
#include "parallel/device_world.h"
#include "parallel/nccl_communicator.h"
#include "parallel/process_grid.h"
#include "parallel/staged_communicator.h"
#include "tests/core/values.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/ranks/test_world.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

constexpr DType kTypes[] = {DType::f32, DType::f64, DType::bf16, DType::i64,
                            DType::i32, DType::i8,  DType::u8};

std::unique_ptr<Communicator> device_world(NcclOptions options = {}) {
  return std::make_unique<NcclCommunicator>(test_world().split(0), std::move(options));
}

// Runs the test with each kind of communicator.
std::unique_ptr<Communicator> any_world() {
  if (GENERATE(true, false)) return device_world();
  return std::make_unique<StagedCommunicator>(test_world().split(0));
}

// Integers, whose sums have no rounding; the state of `engine` may differ between ranks.
Tensor integers(std::mt19937& engine, const Shape& shape, DType dtype = DType::f32) {
  const Tensor values = Tensor::empty(shape, DType::f32);
  for (float& value : values.span<float>()) value = static_cast<float>(engine() % 16);
  return values.to(dtype);
}

void check_device() { REQUIRE(emulator::take_report() == ""); }

// Waits until all ranks are done, as the end of one rank's operation must not disturb the wait of another.
void meet() { test_world().barrier(); }

// Random rows between all pairs of ranks, none for some pairs. All ranks draw the same numbers of rows.
struct Traffic {
  Traffic(std::mt19937& common, DType dtype) {
    const auto ranks = static_cast<std::size_t>(test_world().size()),
               me = static_cast<std::size_t>(test_world().rank());
    const Index width = 1 + static_cast<Index>(common() % 5);
    for (std::size_t from = 0; from < ranks; ++from)
      for (std::size_t to = 0; to < ranks; ++to) {
        const auto rows = static_cast<Index>(common() % 4 == 0 ? 0 : common() % 9);
        if (from == me) send_rows.push_back(rows);
        if (to == me) receive_rows.push_back(rows);
      }
    std::mt19937 own(common() + test_world().rank());
    send = integers(own, {std::accumulate(send_rows.begin(), send_rows.end(), Index{}), width}, dtype);
    receive =
        Tensor::zeros({std::accumulate(receive_rows.begin(), receive_rows.end(), Index{}), width}, dtype);
    leaving = blocks(send_rows);
    arriving = blocks(receive_rows);
  }
  // The rows of each other rank in two blocks: the last row, then the others.
  static std::vector<PeerRows> blocks(const std::vector<Index>& rows) {
    std::vector<PeerRows> result;
    Index first = 0;
    for (int peer = 0; peer < test_world().size(); ++peer) {
      const Index count = rows[static_cast<std::size_t>(peer)];
      if (peer != test_world().rank() && count > 0) {
        result.push_back({peer, first + count - 1, 1});
        result.push_back({peer, first, count - 1});
      }
      first += count;
    }
    return result;
  }

  std::vector<Index> send_rows, receive_rows;
  std::vector<PeerRows> leaving, arriving;
  Tensor send, receive;
};

TEST_CASE("reductions, broadcasts and gathers on devices agree with MPI") {
  const auto world = any_world();
  std::mt19937 engine(static_cast<unsigned>(world->rank()));
  for (const DType dtype : kTypes)
    for (const Index count : {0, 1, 37}) {
      const Tensor values = integers(engine, {count}, dtype);
      for (const Reduction reduction : {Reduction::sum, Reduction::max, Reduction::min}) {
        if (dtype == DType::bf16 || dtype == DType::i8) continue;
        const Tensor device = cuda::to_device(values), expected = values.clone();
        test_world().all_reduce(expected, reduction);
        world->all_reduce(device, reduction);
        CHECK(same_bits(cuda::to_host(device), expected));
      }
      for (int root = 0; root < world->size(); ++root) {
        const Tensor device = cuda::to_device(values), expected = values.clone();
        test_world().broadcast(expected, root);
        world->broadcast(device, root);
        CHECK(same_bits(cuda::to_host(device), expected));
      }
      const Tensor all = Tensor::zeros({world->size(), count}, dtype), on_device = cuda::to_device(all);
      test_world().all_gather(values, all);
      world->all_gather(cuda::to_device(values), on_device);
      CHECK(same_bits(cuda::to_host(on_device), all));
    }
  check_device();
}

TEST_CASE("all_to_all on devices agrees with MPI") {
  const auto world = any_world();
  std::mt19937 common(11);
  for (int round = 0; round < 20; ++round) {
    const Traffic t(common, kTypes[static_cast<std::size_t>(round) % std::size(kTypes)]);
    const Tensor send = cuda::to_device(t.send), receive = cuda::to_device(t.receive);
    test_world().all_to_all(t.send, t.send_rows, t.receive, t.receive_rows);
    world->all_to_all(send, t.send_rows, receive, t.receive_rows);
    CHECK(same_bits(cuda::to_host(receive), t.receive));
  }
  check_device();
}

TEST_CASE("eight exchanges and reductions between devices can be under way at once") {
  const auto world = any_world();
  std::mt19937 common(12);
  std::size_t events = 0, pinned = 0;
  for (int round = 0; round < 3; ++round) {
    std::vector<Traffic> traffic;
    std::vector<Tensor> send, receive, sums;
    std::vector<Request> requests;
    for (int i = 0; i < 8; ++i) {
      traffic.emplace_back(common, DType::f32);
      send.push_back(cuda::to_device(traffic.back().send));
      receive.push_back(cuda::to_device(traffic.back().receive));
      requests.push_back(world->start_exchange(send.back(), traffic.back().leaving, receive.back(),
                                               traffic.back().arriving));
      sums.push_back(cuda::to_device(Tensor::of<double>({2}, {1.0 * i, 1.0 * world->rank()})));
      requests.push_back(world->start_all_reduce(sums.back()));
    }
    if (world->size() > 1)
      CHECK_THROWS_WITH(world->start_exchange(send[0], traffic[0].leaving, receive[0], traffic[0].arriving),
                        Contains("8 are under way"));
    if (round == 1)
      for (Request& request : requests)
        while (!request.test()) {
        }
    for (auto request = requests.rbegin(); request != requests.rend(); ++request) request->wait();
    for (std::size_t i = 0; i < 8; ++i) {
      test_world()
          .start_exchange(traffic[i].send, traffic[i].leaving, traffic[i].receive, traffic[i].arriving)
          .wait();
      CHECK(same_bits(cuda::to_host(receive[i]), traffic[i].receive));
      const double ranks = world->size();
      CHECK(same_bits(cuda::to_host(sums[i]),
                      Tensor::of<double>({2}, {ranks * static_cast<double>(i), ranks * (ranks - 1) / 2})));
    }
    if (round > 0) CHECK(emulator::counters().events == events);
    if (round > 0) CHECK(emulator::counters().pinned_allocations == pinned);
    events = emulator::counters().events;
    pinned = emulator::counters().pinned_allocations;
  }
  check_device();
}

TEST_CASE("work queued after a wait uses the result, and with NCCL the host does not wait") {
  const auto world = any_world();
  const Tensor values = cuda::to_device(Tensor::of<float>({3}, {1, 2, 3})), copy = cuda::empty_on_device({3});
  const std::size_t copies = emulator::counters().copies;
  world->all_reduce(values);
  {
    Request request = world->start_all_reduce(values);
    request.wait();
    request.wait();
  }
  cuda::copy(values, copy);
  world->all_reduce(copy);
  if (dynamic_cast<NcclCommunicator*>(world.get())) CHECK(emulator::counters().copies == copies);
  const auto ranks = static_cast<float>(world->size());
  CHECK(same_bits(cuda::to_host(copy),
                  Tensor::of<float>({3}, {1 * ranks * ranks * ranks, 2 * ranks * ranks * ranks,
                                          3 * ranks * ranks * ranks})));
  check_device();
}

TEST_CASE("a rank can wait for its device while other ranks wait for it by MPI") {
  const auto world = any_world();
  const Tensor values = cuda::to_device(Tensor::of<float>({1}, {1}));
  for (int root = 0; root < world->size(); ++root) {
    world->all_reduce(values);
    if (world->rank() == root) CHECK(cuda::to_host(values).numel() == 1);
    CHECK(world->sum(Index{1}) == world->size());
  }
  CHECK(cuda::to_host(values).data<float>()[0] == std::pow(world->size(), world->size()));
  check_device();
}

TEST_CASE("a rank that only receives gets what others send that wait by MPI") {
  const auto world = any_world();
  const auto size = static_cast<std::size_t>(world->size());
  const bool first = world->rank() == 0;
  // All send to rank 0, which sends to itself only; the others also exchange rows.
  std::vector<Index> sent(size, first ? 0 : 1), received(size, 1);
  sent[0] = 1;
  if (!first) received[0] = 0;
  const auto rows = [](const std::vector<Index>& of) {
    return std::accumulate(of.begin(), of.end(), Index{0});
  };
  const Tensor from = Tensor::zeros({rows(sent), 1});
  std::ranges::fill(from.span<float>(), 2.0F);
  const Tensor into = cuda::to_device(Tensor::zeros({rows(received), 1}));
  world->all_to_all(cuda::to_device(from), sent, into, received);
  if (first) CHECK(cuda::to_host(into).data<float>()[size - 1] == 2);
  meet();
  CHECK(cuda::to_host(into).data<float>()[0] == 2);
  check_device();
}

TEST_CASE("a request may be destroyed while under way, or moved from") {
  const auto world = any_world();
  const Tensor values = cuda::to_device(Tensor::of<std::int64_t>({1}, {world->rank() + 1}));
  {
    Request first = world->start_all_reduce(values, Reduction::max);
    const Request second = std::move(first);
    CHECK(first.test());
  }
  CHECK(cuda::to_host(values).data<std::int64_t>()[0] == world->size());
  check_device();
}

TEST_CASE("split groups work alongside the world, in any order of waits") {
  const auto world = any_world();
  const auto half = world->split(world->rank() % 2), all = world->split(0);
  std::mt19937 common(13);
  for (int round = 0; round < 4; ++round) {
    const auto mine = static_cast<float>(world->rank() + round);
    const Tensor first = cuda::to_device(Tensor::of<float>({1}, {mine})),
                 second = cuda::to_device(Tensor::of<float>({1}, {mine})),
                 third = cuda::to_device(Tensor::of<float>({1}, {mine}));
    Request a = half->start_all_reduce(first), b = all->start_all_reduce(second, Reduction::max);
    world->broadcast(third, world->size() - 1);
    if (world->rank() % 2 == 0) std::swap(a, b);
    a.wait();
    CHECK(cuda::to_host(world->rank() % 2 == 0 ? second : first).numel() == 1);
    b.wait();
    float sum = 0;
    for (int rank = world->rank() % 2; rank < world->size(); rank += 2)
      sum += static_cast<float>(rank + round);
    CHECK(cuda::to_host(first).data<float>()[0] == sum);
    CHECK(cuda::to_host(second).data<float>()[0] == static_cast<float>(world->size() - 1 + round));
    CHECK(cuda::to_host(third).data<float>()[0] == static_cast<float>(world->size() - 1 + round));
  }
  CHECK_THROWS_WITH(world->split(-1), Contains("colour -1"));
  check_device();
}

TEST_CASE("a process grid of devices sums over the world and its parts") {
  const auto world = any_world();
  for (int expert_parallel = 1; expert_parallel <= test_world().size(); expert_parallel *= 2) {
    const ProcessGrid grid(world->split(0), expert_parallel);
    for (Communicator* group : {&grid.world(), &grid.expert_group(), &grid.data_group()}) {
      const Tensor one = cuda::to_device(Tensor::of<float>({1}, {1}));
      group->all_reduce(one, Reduction::sum);
      CHECK(cuda::to_host(one).data<float>()[0] == static_cast<float>(group->size()));
      CHECK(group->sum(Index{1}) == group->size());  // by MPI
    }
    grid.world().barrier();
  }
  check_device();
}

TEST_CASE("host tensors use MPI, and operations refuse tensors of two devices") {
  const auto world = any_world();
  const Tensor host = Tensor::zeros({4, 3}), device = cuda::to_device(host);
  CHECK(world->sum(Index{1}) == world->size());
  CHECK(world->all_gather("text").size() == static_cast<std::size_t>(world->size()));
  CHECK(world->host().device() == Device::cpu);
  const std::vector<Index> none(static_cast<std::size_t>(world->size()));
  world->all_to_all(host, none, Tensor::zeros({4, 3}), none);
  world->start_exchange(host, {}, host, {}).wait();
  world->start_all_reduce(host).wait();
  CHECK_THROWS_WITH(world->all_gather(host, device), Contains("all_gather: some tensors are on"));
  CHECK_THROWS_WITH(world->start_exchange(device, {}, host, {}), Contains("start_exchange: some tensors"));
  CHECK_THROWS_WITH(world->all_reduce(device.transpose(0, 1), Reduction::sum),
                    Contains("all_reduce") && Contains("gaps"));
  CHECK_THROWS_WITH(world->start_all_reduce(cuda::empty_on_device({2}, DType::bf16), Reduction::sum),
                    Contains("bf16"));
  CHECK_THROWS_WITH(world->broadcast(device, world->size()), Contains("broadcast: root"));
  CHECK_THROWS_WITH(world->all_gather(device, cuda::empty_on_device({world->size(), 5})),
                    Contains("does not hold"));
  const PeerRows self[] = {{world->rank(), 0, 1}};
  CHECK_THROWS_WITH(world->start_exchange(device, self, device, {}), Contains("is not another of the"));
  check_device();
}

// ---- Mistakes. Each has a communicator of its own, as one is unusable after a mistake.

struct RawNccl {
  RawNccl() {
    ncclUniqueId id{};
    if (test_world().rank() == 0) REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
    test_world().broadcast(Tensor::borrow(id.internal, {sizeof id.internal}, DType::u8), 0);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    REQUIRE(ncclCommInitRankConfig(&handle, test_world().size(), id, test_world().rank(), &config) ==
            ncclSuccess);
  }
  ncclComm_t handle = nullptr;
  int rank = test_world().rank(), size = test_world().size();
};

// The reports of all ranks; every rank waits for its device first.
std::string reports() {
  cudaDeviceSynchronize();
  std::string all;
  for (const std::string& report : test_world().all_gather(emulator::take_report())) all += report + "\n";
  return all;
}

struct ShortPatience {
  ShortPatience() { emulator::set_patience(std::chrono::milliseconds(500)); }
  ~ShortPatience() { emulator::set_patience(std::chrono::seconds(30)); }
};

TEST_CASE("reading a result before waiting for the request is detected") {
  if (test_world().size() == 1) return;
  const auto world = device_world();
  const Tensor values = cuda::to_device(Tensor::zeros({8})), read = Tensor::empty({8});
  for (const bool waits : {true, false}) {
    Request request = world->start_all_reduce(values);
    if (waits) request.wait();
    cuda::copy(values, read);
    const std::string said = reports();
    if (waits)
      CHECK_THAT(said, !Contains("between"));
    else
      CHECK_THAT(said, Contains("ncclAllReduce") && Contains("with no event between them"));
  }
}

TEST_CASE("writing to a buffer while it is sent is detected") {
  if (test_world().size() == 1) return;
  const auto world = device_world();
  std::mt19937 common(14);
  const Tensor send = cuda::to_device(Tensor::zeros({4, 2})), receive = cuda::empty_on_device({4, 2});
  const int other = world->rank() ^ 1;
  const PeerRows block[] = {{other, 1, 2}};
  Request request = world->start_exchange(send, block, receive, block);
  cuda::check(cudaMemsetAsync(send.raw(), 0, send.bytes(), cuda::current_stream()), "zeros");
  CHECK_THAT(reports(), Contains("ncclRecv") && Contains("with no event between them"));
}

TEST_CASE("different calls on different ranks are detected") {
  if (test_world().size() == 1) return;
  const ShortPatience patience;
  const Tensor a = cuda::to_device(Tensor::zeros({8})), b = cuda::to_device(Tensor::zeros({32}));
  const auto planted = [&](auto act) {
    const RawNccl nccl;
    const bool first = nccl.rank == 0;
    act(nccl, first);
    const std::string said = reports();
    ncclCommDestroy(nccl.handle);
    meet();
    return said;
  };
  const auto sum = [&](const RawNccl& nccl, std::size_t count, ncclRedOp_t op = ncclSum,
                       ncclDataType_t type = ncclFloat32) {
    return ncclAllReduce(a.raw(), a.raw(), count, type, op, nccl.handle, nullptr);
  };
  CHECK_THAT(
      planted([&](auto& nccl, bool first) { sum(nccl, first ? 8 : 7); }),
      Contains("does ncclAllReduce of 8 float32 (sum)") && Contains("does ncclAllReduce of 7 float32 (sum)"));
  CHECK_THAT(planted([&](auto& nccl, bool first) { sum(nccl, 4, first ? ncclSum : ncclMax); }),
             Contains("(sum)") && Contains("(max)"));
  CHECK_THAT(planted([&](auto& nccl, bool first) { sum(nccl, 4, ncclSum, first ? ncclFloat32 : ncclInt32); }),
             Contains("4 float32") && Contains("4 int32"));
  CHECK_THAT(planted([&](auto& nccl, bool first) {
               ncclBroadcast(a.raw(), a.raw(), 8, ncclFloat32, first ? 0 : 1, nccl.handle, nullptr);
             }),
             Contains("from rank 0") && Contains("from rank 1"));
  CHECK_THAT(planted([&](auto& nccl, bool first) {
               if (first) sum(nccl, 8);
               ncclAllGather(a.raw(), b.raw(), 8, ncclFloat32, nccl.handle, nullptr);
               if (!first) sum(nccl, 8);
             }),
             Contains("ncclAllGather of 8 float32, collective 1") &&
                 Contains("ncclAllReduce of 8 float32 (sum), collective 1"));
  CHECK_THAT(planted([&](auto& nccl, bool first) {
               if (first) ncclSend(a.raw(), 8, ncclFloat32, 1, nccl.handle, nullptr);
               if (nccl.rank == 1) ncclRecv(a.raw(), 6, ncclFloat32, 0, nccl.handle, nullptr);
             }),
             Contains("ncclSend of 8 float32 to rank 1") && Contains("ncclRecv of 6 float32 from rank 0"));
  CHECK_THAT(planted([&](auto& nccl, bool first) {
               if (first) ncclSend(a.raw(), 8, ncclFloat32, 1, nccl.handle, nullptr);
             }),
             Contains("nothing went on") && Contains("has not been received by rank 1"));
  CHECK_THAT(planted([&](auto& nccl, bool first) {
               if (first) ncclRecv(a.raw(), 8, ncclFloat32, 1, nccl.handle, nullptr);
             }),
             Contains("has nothing of rank 1 yet"));
  // Without a group, two sends wait for each other.
  CHECK_THAT(planted([&](auto& nccl, bool) {
               if (nccl.rank > 1) return;
               ncclSend(a.raw(), 4, ncclFloat32, 1 - nccl.rank, nccl.handle, nullptr);
               ncclRecv(b.raw(), 4, ncclFloat32, 1 - nccl.rank, nccl.handle, nullptr);
             }),
             Contains("has not been received"));
}

TEST_CASE("invalid memory for NCCL is detected") {
  const auto planted = [&](auto act) {
    const RawNccl nccl;
    act(nccl);
    return reports();
  };
  const Tensor a = cuda::to_device(Tensor::zeros({8})), b = cuda::empty_on_device({40});
  float host[8] = {};
  CHECK_THAT(
      planted([&](auto& nccl) { ncclAllReduce(host, host, 8, ncclFloat32, ncclSum, nccl.handle, nullptr); }),
      Contains("ncclAllReduce: this is not device memory"));
  CHECK_THAT(planted([&](auto& nccl) {
               ncclAllReduce(a.raw(), a.raw(), 9, ncclFloat32, ncclSum, nccl.handle, nullptr);
             }),
             Contains("36 bytes at offset 0 of 32"));
  CHECK_THAT(planted([&](auto& nccl) {
               ncclAllReduce(b.raw(), b.data<float>() + 1, 8, ncclFloat32, ncclSum, nccl.handle, nullptr);
             }),
             Contains("overlaps what it writes"));
  CHECK_THAT(planted([&](auto& nccl) {
               ncclAllGather(b.data<float>() + 1, b.raw(), 8, ncclFloat32, nccl.handle, nullptr);
             }),
             Contains("overlaps what it writes"));
  CHECK_THAT(planted([&](auto& nccl) {  // allowed: in place
               ncclAllGather(b.data<float>() + 2 * nccl.rank, b.raw(), 2, ncclFloat32, nccl.handle, nullptr);
             }),
             !Contains("ncclAllGather"));
  if (test_world().size() == 1) return;
  CHECK_THAT(planted([&](auto& nccl) {
               ncclGroupStart();
               ncclSend(a.raw(), 8, ncclFloat32, nccl.rank ^ 1, nccl.handle, nullptr);
               ncclRecv(a.raw(), 8, ncclFloat32, nccl.rank ^ 1, nccl.handle, nullptr);
               ncclGroupEnd();
             }),
             Contains("overlaps what it writes"));
}

TEST_CASE("use of groups and communicators in the wrong state is detected") {
  const Tensor a = cuda::to_device(Tensor::zeros({8}));
  const auto sum = [&](ncclComm_t comm) {
    return ncclAllReduce(a.raw(), a.raw(), 8, ncclFloat32, ncclSum, comm, nullptr);
  };
  CHECK(ncclGroupEnd() == ncclInvalidUsage);
  CHECK_THAT(reports(), Contains("no group was started"));
  CHECK(sum(nullptr) == ncclInvalidUsage);
  CHECK_THAT(reports(), Contains("there is no communicator"));
  {
    const RawNccl nccl;
    sum(nccl.handle);
    CHECK(ncclCommDestroy(nccl.handle) == ncclInvalidUsage);
    CHECK_THAT(reports(), Contains("ncclCommDestroy: 1 of its operations are not complete"));
  }
  {
    const RawNccl nccl;
    CHECK(ncclCommDestroy(nccl.handle) == ncclSuccess);
    CHECK(sum(nccl.handle) == ncclInvalidUsage);
    CHECK_THAT(reports(), Contains("destroyed before"));
  }
  {
    const RawNccl nccl;
    sum(nccl.handle);
    ncclCommAbort(nccl.handle);
    CHECK_THAT(reports(), !Contains("NCCL") && !Contains("nccl"));
    CHECK(std::isnan(cuda::to_host(a).data<float>()[0]));
    CHECK(sum(nccl.handle) == ncclInvalidUsage);
    CHECK_THAT(reports(), Contains("aborted before"));
  }
  emulator::set_bus_id("0000:1b:00.0");
  ncclUniqueId id{};
  if (test_world().rank() == 0) ncclGetUniqueId(&id);
  test_world().broadcast(Tensor::borrow(id.internal, {sizeof id.internal}, DType::u8), 0);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclComm_t comm = nullptr;
  const ncclResult_t result =
      ncclCommInitRankConfig(&comm, test_world().size(), id, test_world().rank(), &config);
  CHECK(result == (test_world().size() == 1 ? ncclSuccess : ncclInvalidUsage));
  if (result != ncclSuccess) CHECK_THAT(ncclGetLastError(comm), Contains("Duplicate GPU"));
  emulator::set_bus_id("");
}

TEST_CASE("a refusal of NCCL is an Error with the reason") {
  if (test_world().size() == 1) return;
  emulator::set_bus_id("0000:1b:00.0");
  const auto world = device_world();
  CHECK_THROWS_WITH(world->all_reduce(cuda::to_device(Tensor::zeros({4}))),
                    Contains("starting NCCL: NCCL says: ") && Contains("Duplicate GPU"));
  CHECK_THROWS_WITH(world->prepare(), Contains("starting NCCL: NCCL says: ") && Contains("Duplicate GPU"));
  emulator::set_bus_id("");
  meet();
}

TEST_CASE("a prepared communicator makes nothing more in its first operation") {
  const auto world = device_world();
  world->prepare();
  const std::size_t events = emulator::counters().events;
  const Tensor ones = cuda::empty_on_device({3});
  cuda::fill(ones, 1);
  world->all_reduce(ones);
  CHECK(emulator::counters().events == events);
  CHECK(cuda::to_host(ones).data<float>()[2] == static_cast<float>(world->size()));
  CHECK(!world->needs_calls());
  CHECK(StagedCommunicator(test_world().split(0)).needs_calls());
  meet();
}

TEST_CASE("NCCL is told to add in a fixed order, unless the user decides otherwise") {
  for (const char* const name : {"NCCL_ALGO", "NCCL_NVLS_ENABLE", "NCCL_LAUNCH_ORDER_IMPLICIT"})
    unsetenv(name);
  const auto value = [](const char* name) { return std::string(std::getenv(name) ? std::getenv(name) : ""); };
  device_world();
  CHECK(value("NCCL_NVLS_ENABLE") == "0");
  CHECK(value("NCCL_LAUNCH_ORDER_IMPLICIT") == "1");
  setenv("NCCL_NVLS_ENABLE", "1", 1);
  device_world();
  CHECK(value("NCCL_NVLS_ENABLE") == "1");
  unsetenv("NCCL_NVLS_ENABLE");
  setenv("NCCL_ALGO", "nvls", 1);
  device_world();
  CHECK(value("NCCL_NVLS_ENABLE").empty());
  unsetenv("NCCL_ALGO");
}

TEST_CASE("pinned memory for shared devices does not depend on which message is done first") {
  StagedCommunicator world(test_world().split(0));
  if (world.size() == 1) return;
  const std::array<Index, 3> sizes{1 << 20, 1 << 23, 1 << 21};  // bytes
  std::vector<Tensor> values;
  for (const Index bytes : sizes) values.push_back(cuda::to_device(Tensor::zeros({bytes / 4})));
  const std::size_t before = emulator::counters().pinned_bytes;
  std::size_t after = 0;
  std::vector<std::size_t> order{0, 1, 2};
  for (int round = 0; round < 12; ++round) {
    std::vector<Request> requests;
    for (const std::size_t i : order) requests.push_back(world.start_all_reduce(values[i], Reduction::sum));
    for (Request& request : requests) request.wait();
    std::ranges::next_permutation(order);
    if (round == 5) after = emulator::counters().pinned_bytes - before;
  }
  CHECK(emulator::counters().pinned_bytes - before == after);
  CHECK(static_cast<double>(after) <= 1.25 * static_cast<double>(sizes[0] + sizes[1] + sizes[2]));
  meet();
}

// ---- The watchdog

struct Heard {
  NcclOptions options(std::chrono::milliseconds deadline = {}) {
    return {.deadline = deadline, .on_failure = [this](const std::string& line) {
              what = line;
              came = true;
            }};
  }
  bool within(std::chrono::seconds most) const {
    for (const auto end = std::chrono::steady_clock::now() + most;
         !came && std::chrono::steady_clock::now() < end;)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return came;
  }
  std::string what;
  std::atomic<bool> came = false;
};

TEST_CASE("an asynchronous NCCL error is reported and aborts the communicator") {
  if (test_world().size() == 1) return;
  Heard heard;
  const auto world = device_world(heard.options());
  const Tensor values = cuda::to_device(Tensor::zeros({4}));
  world->all_reduce(values);
  cuda::to_host(values);
  meet();
  Request request = world->start_all_reduce(values);
  emulator::plant_nccl_error(true);
  REQUIRE(heard.within(std::chrono::seconds(10)));
  emulator::plant_nccl_error(false);
  CHECK_THAT(heard.what, Contains("rank " + std::to_string(world->rank()) + " of ") &&
                             Contains("start_all_reduce under way") &&
                             Contains("NCCL says: remote process") && Contains("a peer is lost"));
  request.wait();  // returns, as the operation was aborted
  CHECK_THROWS_WITH(world->all_reduce(values), Contains("all_reduce: NCCL's communicator was aborted"));
  CHECK_THAT(reports(), !Contains("nccl"));
}

TEST_CASE("an operation without one of the ranks is reported at the deadline") {
  if (test_world().size() == 1) return;
  Heard heard;
  const auto world = device_world(heard.options(std::chrono::milliseconds(300)));
  const Tensor values = cuda::to_device(Tensor::zeros({4}));
  world->all_reduce(values);
  cuda::to_host(values);
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  CHECK(!heard.came);  // nothing is under way
  if (world->rank() != 0) {
    world->all_reduce(values, Reduction::max);
    REQUIRE(heard.within(std::chrono::seconds(10)));
    CHECK_THAT(heard.what, Contains("all_reduce has been under way for"));
  }
  meet();
  check_device();
}

TEST_CASE("a communicator destroyed by an exception does not wait for other ranks") {
  if (test_world().size() == 1) return;
  const Tensor values = cuda::to_device(Tensor::zeros({4}));
  const auto interrupted = [&] {
    const auto world = device_world();
    world->all_reduce(values);
    cuda::to_host(values);
    meet();
    if (world->rank() == 0) fail("this rank is lost");
    world->all_reduce(values);
    fail("so is this one");
  };
  CHECK_THROWS_AS(interrupted(), Error);
  CHECK_THAT(reports(), !Contains("nccl"));
}

// ---- Devices

std::unique_ptr<MpiCommunicator> all_ranks() {
  MPI_Comm copy = MPI_COMM_NULL;
  REQUIRE(MPI_Comm_dup(dynamic_cast<MpiCommunicator&>(test_world()).handle(), &copy) == MPI_SUCCESS);
  return std::make_unique<MpiCommunicator>(copy);
}

TEST_CASE("ranks choose devices by their place on the node; all learn of a rank without") {
  auto& world = dynamic_cast<MpiCommunicator&>(test_world());
  emulator::set_devices(2);
  CHECK(choose_device(world).device == world.rank() % 2);
  const bool last = world.rank() == world.size() - 1;
  const auto refused = [&](int error, int driver = 13000) {
    emulator::set_devices(last && error != 0 ? 0 : 1, last ? error : 0, driver);
    std::string what;
    try {
      choose_device(world);
    } catch (const Error& problem) {
      what = problem.what();
    }
    emulator::set_devices(1);
    for (const std::string& other : world.all_gather(what)) CHECK(other == what);
    return what;
  };
  CHECK(refused(0).empty());
  CHECK_THAT(refused(cudaErrorNoDevice), Contains("rank " + std::to_string(world.size() - 1) + " on ") &&
                                             Contains("no CUDA device") && Contains("CUDA_VISIBLE_DEVICES"));
  CHECK_THAT(refused(cudaErrorInsufficientDriver, 0), Contains("no NVIDIA driver"));
  CHECK_THAT(refused(cudaErrorInsufficientDriver, 12040), Contains("CUDA 12.4, older than the 13.0"));
  CHECK_THAT(refused(cudaErrorStubLibrary), Contains("stub"));
  CHECK_THAT(refused(cudaErrorInvalidDevice), Contains("no CUDA device: "));
}

TEST_CASE("if one rank cannot use its device, all ranks learn of it") {
  auto& world = dynamic_cast<MpiCommunicator&>(test_world());
  const int error = cudaErrorMemoryAllocation;
  const auto refused = [&](const emulator::DeviceErrors& errors, const char* bus_id, const char* doing) {
    emulator::set_bus_id(bus_id);
    if (world.rank() == world.size() - 1) emulator::set_device_errors(errors);
    std::string what;
    try {
      choose_device(world);
    } catch (const Error& problem) {
      what = problem.what();
    }
    const DeviceWorld chosen = world_on("auto", all_ranks());
    emulator::set_device_errors({});
    emulator::set_bus_id("");
    CHECK_THAT(what, Contains("rank " + std::to_string(world.size() - 1) + " on ") &&
                         Contains(" has CUDA device 0, which cannot be used: ") && Contains(doing) &&
                         Contains("CUDA says: out of memory"));
    for (const std::string& other : world.all_gather(what)) CHECK(other == what);
    CHECK(chosen.note == what);
    CHECK(chosen.stream == nullptr);
    CHECK(chosen.world->device() == Device::cpu);
  };
  refused({.set_device = error}, "", "taking it");
  refused({.bus_id = error}, "", "asking for its bus");
  if (world.size() > 1)  // one rank alone does not share its device
    refused({.memory = error}, "0000:1b:00.0", "asking for the device's memory");
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("ranks that share a device divide its memory") {
  auto& world = dynamic_cast<MpiCommunicator&>(test_world());
  const std::size_t free = cuda::free_memory();
  CHECK(choose_device(world).shared.empty());
  CHECK(cuda::free_memory() == free);
  emulator::set_bus_id("0000:1b:00.0");
  const std::string shared = choose_device(world).shared;
  emulator::set_bus_id("");
  CHECK(cuda::free_memory() == free / static_cast<std::size_t>(world.size()));
  if (world.size() > 1)
    CHECK_THAT(shared, Contains("ranks 0, 1") && Contains("share device 0000:1b:00.0 on "));
  else
    CHECK(shared.empty());
  for (const std::string& other : world.all_gather(shared)) CHECK(other == shared);
  cuda::limit_memory(free);
}

TEST_CASE("a world of devices sets the stream of its thread for its lifetime") {
  check_device();
  CHECK(world_on("cpu", all_ranks()).stream == nullptr);
  emulator::set_devices(0);
  CHECK_THROWS_WITH(world_on("cuda", all_ranks()), Contains("no CUDA device"));
  const DeviceWorld without = world_on("auto", all_ranks());
  CHECK(without.stream == nullptr);
  CHECK_THAT(without.note, Contains("no CUDA device"));
  emulator::set_devices(1);
  for (const char* const bus_id : {"", "0000:1b:00.0"}) {
    emulator::set_bus_id(bus_id);
    const DeviceWorld chosen = world_on("auto", all_ranks());
    emulator::set_bus_id("");
    CHECK(chosen.note.empty());
    if (*bus_id && test_world().size() > 1)
      CHECK_THAT(chosen.warning, Contains("share device 0000:1b:00.0") && Contains("NCCL wants one"));
    else
      CHECK(chosen.warning.empty());
    CHECK(chosen.world->device() == Device::cuda);
    REQUIRE(cuda::current_stream() != nullptr);
    const Tensor ones = cuda::empty_on_device({3});
    cuda::fill(ones, 1);
    chosen.world->all_reduce(ones);
    CHECK(cudaStreamQuery(nullptr) == cudaSuccess);  // the default stream has no work
    CHECK(cuda::to_host(ones).data<float>()[2] == static_cast<float>(chosen.world->size()));
  }
  CHECK(cuda::current_stream() == nullptr);
}

// ---- For tests/fault: these end the job

TEST_CASE("collectives until a rank is killed", "[.killed]") {
  const auto world = device_world();
  const Tensor values = cuda::to_device(Tensor::zeros({1000}));
  if (world->rank() == 0) std::fprintf(stderr, "under way\n");
  for (;;) {
    world->all_reduce(values);
    cuda::to_host(values);
  }
}

TEST_CASE("a peer is lost while a rank waits", "[.lost]") {
  const auto world = device_world();
  const Tensor values = cuda::to_device(Tensor::zeros({1000}));
  world->all_reduce(values);
  cuda::to_host(values);
  if (world->rank() == 0) {
    world->all_reduce(values);
    emulator::plant_nccl_error(true);
    cuda::to_host(values);
  }
  test_world().barrier();
}

TEST_CASE("a rank takes no part", "[.absent]") {
  const auto world = device_world({.deadline = std::chrono::seconds(1), .on_failure = {}});
  const Tensor values = cuda::to_device(Tensor::zeros({1000}));
  world->all_reduce(values);
  cuda::to_host(values);
  if (world->rank() == 0) world->all_reduce(values);
  test_world().barrier();
}

}  // namespace
}  // namespace conclave

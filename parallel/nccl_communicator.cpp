// Each operation queues NCCL's work after the work it depends on. Both sides know the counts, so both leave
// out messages of no elements.
#include "parallel/nccl_communicator.h"

#include <nccl.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <utility>
#include <vector>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "parallel/nccl_watchdog.h"

namespace conclave {
namespace {

constexpr int kExchanges = 8;  // under way at once, as between CPUs

void check(ncclResult_t code, const char* operation, ncclComm_t handle = nullptr) {
  if (code == ncclSuccess) [[likely]]
    return;
  fail("{}: NCCL says: {}: {}", operation, ncclGetErrorString(code), ncclGetLastError(handle));
}

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    case DType::bf16:
      return ncclBfloat16;
    case DType::i64:
      return ncclInt64;
    case DType::i32:
      return ncclInt32;
    case DType::i8:
      return ncclInt8;
    case DType::u8:
      break;
  }
  return ncclUint8;
}

ncclRedOp_t op_of(Reduction reduction) {
  return reduction == Reduction::sum ? ncclSum : reduction == Reduction::max ? ncclMax : ncclMin;
}

// Sets what NCCL reads from the environment at its first call, unless the user has set it.
void set_environment() {
  const auto set = [](const char* name, const char* value) { setenv(name, value, 0); };
  // The switches of NVLink add in an order that may differ from call to call, and so would a run's bits.
  if (std::getenv("NCCL_ALGO") == nullptr) set("NCCL_NVLS_ENABLE", "0");
  // Gradients and expert rows travel at the same time, on different communicators. The device would start
  // them in any order, and NCCL does not promise that they finish if two ranks start them differently.
  set("NCCL_LAUNCH_ORDER_IMPLICIT", "1");
}

// A group of NCCL calls that run together; separate sends and receives would wait for each other.
class Group {
 public:
  explicit Group(const char* operation) : operation_(operation) { check(ncclGroupStart(), operation_); }
  ~Group() {
    if (open_) ncclGroupEnd();
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  void end() {
    open_ = false;
    check(ncclGroupEnd(), operation_);
  }

 private:
  const char* operation_;
  bool open_ = true;
};

}  // namespace

/// Created by the first operation on the device.
struct NcclCommunicator::Engine {
  using Lane = NcclWatch::Lane;

  /// A started operation and its event; reused for later operations.
  struct Started {
    cuda::Event done;
    bool busy = false, exchange = false;
  };

  Engine(Communicator& control, const NcclOptions& options)
      : exceptions_at_start(std::uncaught_exceptions()),
        watch(fmt::format("rank {} of {}", control.rank(), control.size()), options) {
    constexpr const char* kStarting = "starting NCCL";
    ncclUniqueId id{};
    if (control.rank() == 0) check(ncclGetUniqueId(&id), kStarting);
    control.broadcast(Tensor::borrow(id.internal, {sizeof id.internal}, DType::u8), 0);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 1;
    {
      const NcclWatch::Call call(watch, kStarting);
      check(ncclCommInitRankConfig(&handle, control.size(), id, control.rank(), &config), kStarting);
    }
    watch.set_handle(handle);
  }

  ~Engine() {
    const bool failing = std::uncaught_exceptions() > exceptions_at_start;
    if (!failing) {  // errors of the device are reported elsewhere
      cudaStreamSynchronize(stream.handle());
      cudaEventSynchronize(on_current.handle());
    }
    watch.set_handle(nullptr);
    if (watch.aborted()) return;
    failing ? ncclCommAbort(handle) : ncclCommDestroy(handle);
  }

  /// Calls body(stream), which queues work on the current stream.
  template <class Body>
  void run(const char* operation, Body&& body) {
    queue(Lane::current_stream, operation, on_current, cuda::current_stream(), body);
  }

  /// The same on the communicator's own stream, after all work of the current one. Returns the operation's
  /// number in `started`.
  template <class Body>
  int start(const char* operation, bool exchange, Body&& body) {
    auto free = std::ranges::find(started, false, [](const auto& one) { return one->busy; });
    if (free == started.end()) free = started.insert(free, std::make_unique<Started>());
    before.record(cuda::current_stream());
    stream.wait_for(before);
    queue(Lane::own_stream, operation, (*free)->done, stream.handle(), body);
    (*free)->busy = true;
    (*free)->exchange = exchange;
    return static_cast<int>(free - started.begin());
  }

  template <class Body>
  void queue(Lane lane, const char* operation, const cuda::Event& done, cudaStream_t on, Body& body) {
    {
      const NcclWatch::Call call(watch, operation);
      body(on);
    }
    watch.record(lane, operation, done, on);
  }

  void send(const char* operation, const Tensor& rows, int peer, cudaStream_t on) const {
    if (rows.numel() == 0) return;
    check(
        ncclSend(rows.raw(), static_cast<std::size_t>(rows.numel()), type_of(rows.dtype()), peer, handle, on),
        operation, handle);
  }
  void receive(const char* operation, const Tensor& rows, int peer, cudaStream_t on) const {
    if (rows.numel() == 0) return;
    check(
        ncclRecv(rows.raw(), static_cast<std::size_t>(rows.numel()), type_of(rows.dtype()), peer, handle, on),
        operation, handle);
  }
  void all_reduce(const char* operation, const Tensor& values, Reduction reduction, cudaStream_t on) const {
    check(ncclAllReduce(values.raw(), values.raw(), static_cast<std::size_t>(values.numel()),
                        type_of(values.dtype()), op_of(reduction), handle, on),
          operation, handle);
  }

  ncclComm_t handle = nullptr;
  cuda::Stream stream;
  cuda::Event before;      // the current stream's work when an operation was started
  cuda::Event on_current;  // the last operation on the current stream
  std::vector<std::unique_ptr<Started>> started;
  int exceptions_at_start;
  NcclWatch watch;  // destroyed first, because it looks at the events above
};

NcclCommunicator::NcclCommunicator(std::unique_ptr<Communicator> control, NcclOptions options)
    : DeviceCommunicator(std::move(control)), options_(std::move(options)) {
  set_environment();
}

NcclCommunicator::~NcclCommunicator() = default;

// Collective: every rank calls this in the same operation, even a rank that has nothing to send in it.
NcclCommunicator::Engine& NcclCommunicator::engine() {
  if (!engine_) engine_ = std::make_unique<Engine>(control(), options_);
  return *engine_;
}

void NcclCommunicator::prepare() {
  if (size() > 1) engine();
}

void NcclCommunicator::all_reduce_there(const Tensor& values, Reduction reduction) {
  constexpr const char* kOperation = "all_reduce";
  Engine& nccl = engine();
  nccl.run(kOperation, [&](cudaStream_t on) { nccl.all_reduce(kOperation, values, reduction, on); });
}

Request NcclCommunicator::start_all_reduce_there(const Tensor& values, Reduction reduction) {
  constexpr const char* kOperation = "start_all_reduce";
  Engine& nccl = engine();
  return Request(*this, nullptr, nccl.start(kOperation, false, [&](cudaStream_t on) {
    nccl.all_reduce(kOperation, values, reduction, on);
  }));
}

void NcclCommunicator::broadcast_there(const Tensor& values, int root) {
  constexpr const char* kOperation = "broadcast";
  Engine& nccl = engine();
  nccl.run(kOperation, [&](cudaStream_t on) {
    check(ncclBroadcast(values.raw(), values.raw(), static_cast<std::size_t>(values.numel()),
                        type_of(values.dtype()), root, nccl.handle, on),
          kOperation, nccl.handle);
  });
}

void NcclCommunicator::all_gather_there(const Tensor& mine, const Tensor& gathered) {
  constexpr const char* kOperation = "all_gather";
  Engine& nccl = engine();
  nccl.run(kOperation, [&](cudaStream_t on) {
    check(ncclAllGather(mine.raw(), gathered.raw(), static_cast<std::size_t>(mine.numel()),
                        type_of(mine.dtype()), nccl.handle, on),
          kOperation, nccl.handle);
  });
}

void NcclCommunicator::all_to_all_there(const Tensor& send, std::span<const Index> send_rows,
                                        const Tensor& receive, std::span<const Index> receive_rows) {
  constexpr const char* kOperation = "all_to_all";
  // calls take(rank, rows to it, rows from it) for all ranks
  const auto each = [&](auto take) {
    Index from = 0, to = 0;
    for (int peer = 0; peer < size(); ++peer) {
      const Index leaving = send_rows[static_cast<std::size_t>(peer)],
                  arriving = receive_rows[static_cast<std::size_t>(peer)];
      take(peer, send.rows(from, from + leaving), receive.rows(to, to + arriving));
      from += leaving;
      to += arriving;
    }
  };
  each([&](int peer, const Tensor& leaving, const Tensor& arriving) {
    if (peer == rank() && leaving.raw() != arriving.raw()) cuda::copy(leaving, arriving);
  });
  Engine& nccl = engine();
  nccl.run(kOperation, [&](cudaStream_t on) {
    Group group(kOperation);
    each([&](int peer, const Tensor& leaving, const Tensor& arriving) {
      if (peer == rank()) return;
      nccl.send(kOperation, leaving, peer, on);
      nccl.receive(kOperation, arriving, peer, on);
    });
    group.end();
  });
}

Request NcclCommunicator::start_exchange_there(const Tensor& send, std::span<const PeerRows> leaving,
                                               const Tensor& receive, std::span<const PeerRows> arriving) {
  constexpr const char* kOperation = "start_exchange";
  Engine& nccl = engine();
  require(std::ranges::count_if(nccl.started, [](const auto& one) { return one->busy && one->exchange; }) <
              kExchanges,
          "{}: {} are under way on this communicator; wait for one first", kOperation, kExchanges);
  return Request(*this, nullptr, nccl.start(kOperation, true, [&](cudaStream_t on) {
    Group group(kOperation);
    for (const auto& [peer, first, rows] : arriving)
      nccl.receive(kOperation, receive.rows(first, first + rows), peer, on);
    for (const auto& [peer, first, rows] : leaving)
      nccl.send(kOperation, send.rows(first, first + rows), peer, on);
    group.end();
  }));
}

bool NcclCommunicator::finish(void*&, int slot, bool block) {
  auto& operation = *engine_->started[static_cast<std::size_t>(slot)];
  operation.busy = false;  // an operation that failed is finished as well
  if (block)
    cuda::check(cudaStreamWaitEvent(cuda::current_stream(), operation.done.handle(), 0),
                "wait for an operation started before");
  else
    operation.busy = !operation.done.passed();
  return !operation.busy;
}

std::unique_ptr<Communicator> NcclCommunicator::split(int colour) {
  // The new group creates its NCCL communicator with its own id when it is first needed. ncclCommSplit would
  // require the parent's to exist, and would tie the two together.
  return std::make_unique<NcclCommunicator>(control().split(colour), options_);
}

}  // namespace conclave

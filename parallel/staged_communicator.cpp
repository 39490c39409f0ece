// Each operation copies its input to pinned memory, waits for that, calls the control communicator, and
// queues copies of its output.
#include "parallel/staged_communicator.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "parallel/communicator_arguments.h"

namespace conclave {
namespace {

constexpr std::size_t kAlignment = 64;                     // alignment of consecutive tensors
constexpr std::size_t kSmallest = std::size_t{256} << 10;  // sizes of small messages vary most

// Never 0 bytes: MPI may take two buffers at one address for an operation in place.
std::size_t room_for(std::size_t bytes) { return (bytes / kAlignment + 1) * kAlignment; }

Index total(std::span<const Index> rows) { return std::accumulate(rows.begin(), rows.end(), Index{0}); }

// The same blocks without gaps between them; returns the total number of rows.
Index pack(std::span<const PeerRows> blocks, std::vector<PeerRows>& packed) {
  packed.clear();
  Index rows = 0;
  for (const PeerRows& block : blocks) {
    packed.push_back({block.rank, rows, block.rows});
    rows += block.rows;
  }
  return rows;
}

Tensor rows_of(const Tensor& tensor, const PeerRows& block) {
  return tensor.rows(block.first, block.first + block.rows);
}

}  // namespace

/// Pinned memory of one operation at a time, and the copies to the device that end it.
struct StagedCommunicator::Stage {
  ~Stage() { cudaEventSynchronize(copied.handle()); }  // errors are ignored: the device may be gone

  void begin(std::size_t wanted) {
    copied.synchronize();
    if (!memory || wanted > bytes) {
      memory.reset();
      // An eighth more than needed now, because later batches may have a few more rows for an expert.
      bytes = std::max(wanted + wanted / 8, kSmallest);
      memory = std::make_unique<cuda::PinnedMemory>(bytes);
    }
    used = 0;
    arriving.clear();
  }

  Tensor take(const Shape& shape, DType dtype) {
    std::byte* const at = static_cast<std::byte*>(memory->data()) + used;
    used += room_for(static_cast<std::size_t>(shape.numel()) * size_of(dtype));
    return Tensor::borrow(at, shape, dtype);
  }
  Tensor take_for(const Tensor& tensor) { return take(tensor.shape(), tensor.dtype()); }
  /// Pinned memory for the new elements of `tensor`, which end() copies to it.
  Tensor receive(const Tensor& tensor) { return arriving.emplace_back(take_for(tensor), tensor).first; }

  void end() {
    for (const auto& [staged, tensor] : arriving) cuda::copy(staged, tensor);
    arriving.clear();
    copied.record(cuda::current_stream());
  }

  std::unique_ptr<cuda::PinnedMemory> memory;
  std::size_t bytes = 0, used = 0;
  std::vector<std::pair<Tensor, Tensor>> arriving;  // from pinned memory, to the device
  cuda::Event copied;
  bool busy = false;  // whether a started operation uses this stage
  Request request;    // the control communicator's part of that operation
};

StagedCommunicator::StagedCommunicator(std::unique_ptr<Communicator> control)
    : DeviceCommunicator(std::move(control)) {}

StagedCommunicator::~StagedCommunicator() = default;

StagedCommunicator::Stage& StagedCommunicator::stage(std::size_t bytes) {
  // The smallest that has room, else the largest, which then grows. If any would do, each would in time grow
  // to the largest message, because it depends on the messages' timing which of them are free.
  Stage* best = nullptr;
  for (const auto& stage : stages_) {
    if (stage->busy) continue;
    const bool fits = stage->bytes >= bytes, best_fits = best && best->bytes >= bytes;
    if (!best || (fits ? !best_fits || stage->bytes < best->bytes : !best_fits && stage->bytes > best->bytes))
      best = stage.get();
  }
  if (!best) best = stages_.emplace_back(std::make_unique<Stage>()).get();
  best->begin(bytes);
  return *best;
}

Request StagedCommunicator::started(Stage& stage, Request request) {
  stage.request = std::move(request);
  stage.busy = true;
  const auto at = std::ranges::find(stages_, &stage, [](const auto& one) { return one.get(); });
  return Request(*this, nullptr, static_cast<int>(at - stages_.begin()));
}

void StagedCommunicator::all_reduce_there(const Tensor& values, Reduction reduction) {
  Stage& pinned = stage(values.bytes());
  const Tensor staged = pinned.receive(values);
  cuda::copy(values, staged);
  cuda::synchronize();
  control().all_reduce(staged, reduction);
  pinned.end();
}

Request StagedCommunicator::start_all_reduce_there(const Tensor& values, Reduction reduction) {
  Stage& pinned = stage(values.bytes());
  const Tensor staged = pinned.receive(values);
  cuda::copy(values, staged);
  cuda::synchronize();
  return started(pinned, control().start_all_reduce(staged, reduction));
}

void StagedCommunicator::broadcast_there(const Tensor& values, int root) {
  Stage& pinned = stage(values.bytes());
  const Tensor staged = rank() == root ? pinned.take_for(values) : pinned.receive(values);
  if (rank() == root) cuda::copy(values, staged);
  cuda::synchronize();
  control().broadcast(staged, root);
  pinned.end();
}

void StagedCommunicator::all_gather_there(const Tensor& mine, const Tensor& gathered) {
  Stage& pinned = stage(room_for(mine.bytes()) + gathered.bytes());
  const Tensor leaving = pinned.take_for(mine), arriving = pinned.receive(gathered);
  cuda::copy(mine, leaving);
  cuda::synchronize();
  control().all_gather(leaving, arriving);
  pinned.end();
}

void StagedCommunicator::all_to_all_there(const Tensor& send, std::span<const Index> send_rows,
                                          const Tensor& receive, std::span<const Index> receive_rows) {
  const Tensor sent = send.rows(0, total(send_rows)), received = receive.rows(0, total(receive_rows));
  Stage& pinned = stage(room_for(sent.bytes()) + received.bytes());
  const Tensor leaving = pinned.take_for(sent), arriving = pinned.receive(received);
  cuda::copy(sent, leaving);
  cuda::synchronize();
  control().all_to_all(leaving, send_rows, arriving, receive_rows);
  pinned.end();
}

Request StagedCommunicator::start_exchange_there(const Tensor& send, std::span<const PeerRows> leaving,
                                                 const Tensor& receive, std::span<const PeerRows> arriving) {
  const Index width = row_elements(send);
  const Shape sent{pack(leaving, leaving_), width}, received{pack(arriving, arriving_), width};
  const std::size_t element = size_of(send.dtype());
  Stage& pinned = stage(room_for(static_cast<std::size_t>(sent.numel()) * element) +
                        static_cast<std::size_t>(received.numel()) * element);
  const Tensor from = pinned.take(sent, send.dtype()), to = pinned.take(received, send.dtype());
  for (std::size_t i = 0; i < leaving.size(); ++i)
    cuda::copy(rows_of(send, leaving[i]), rows_of(from, leaving_[i]));
  for (std::size_t i = 0; i < arriving.size(); ++i)
    pinned.arriving.emplace_back(rows_of(to, arriving_[i]), rows_of(receive, arriving[i]));
  cuda::synchronize();
  return started(pinned, control().start_exchange(from, leaving_, to, arriving_));
}

bool StagedCommunicator::finish(void*&, int slot, bool block) {
  Stage& stage = *stages_[static_cast<std::size_t>(slot)];
  stage.busy = false;  // an operation that fails is finished as well
  if (block)
    stage.request.wait();
  else
    stage.busy = !stage.request.test();
  if (!stage.busy) stage.end();
  return !stage.busy;
}

std::unique_ptr<Communicator> StagedCommunicator::split(int colour) {
  return std::make_unique<StagedCommunicator>(control().split(colour));
}

}  // namespace conclave

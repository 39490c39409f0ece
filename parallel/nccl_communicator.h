// The Communicator between CUDA devices, one device for each rank: NCCL.
//
// No operation on the device makes the host wait. Like a kernel, an operation is queued on the current stream
// (core/cuda/launch.h). Operations started with start_...() run on the communicator's own stream, after the
// work that the current stream had at the start. Request::wait() makes the *current stream* wait, not the
// host; Request::test() asks. Results may be used by work queued after wait(), and by the host after it has
// waited for that stream.
//
// NCCL's communicator, stream and memory are created by prepare() or the first operation on the device,
// because many groups only exchange counts; a group of one rank never needs them. NCCL's calls are blocking:
// with blocking = 0 each call starts a thread and must be polled. The purpose of that mode, to escape from a
// call that hangs, is served by the watchdog.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "parallel/device_communicator.h"

namespace conclave {

struct NcclOptions {
  /// An operation under way for longer ends the job, because other ranks are lost or do something else; 0: no
  /// limit. The time of an operation starts anew when another one is queued on its stream.
  std::chrono::milliseconds deadline = std::chrono::minutes(10);
  /// Called by the watchdog's thread with a line that says what happened, after it has aborted all NCCL
  /// communicators. Tensors of operations under way then have undefined contents. If empty, the watchdog
  /// prints the line and ends all ranks.
  std::function<void(const std::string& what)> on_failure;
};

class NcclCommunicator final : public DeviceCommunicator {
 public:
  /// Sets NCCL_NVLS_ENABLE=0, so that sums have the same bits in every run, and NCCL_LAUNCH_ORDER_IMPLICIT=1
  /// where the environment has neither these nor NCCL_ALGO.
  explicit NcclCommunicator(std::unique_ptr<Communicator> control, NcclOptions options = {});
  /// Waits for operations under way, unless an exception propagates: then other ranks may never take part.
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  void prepare() override;
  bool needs_calls() const override { return false; }
  std::unique_ptr<Communicator> split(int colour) override;

 private:
  struct Engine;
  Engine& engine();
  bool finish(void*& native, int slot, bool block) override;

  void all_reduce_there(const Tensor& values, Reduction reduction) override;
  Request start_all_reduce_there(const Tensor& values, Reduction reduction) override;
  void broadcast_there(const Tensor& values, int root) override;
  void all_gather_there(const Tensor& mine, const Tensor& gathered) override;
  void all_to_all_there(const Tensor& send, std::span<const Index> send_rows, const Tensor& receive,
                        std::span<const Index> receive_rows) override;
  Request start_exchange_there(const Tensor& send, std::span<const PeerRows> leaving, const Tensor& receive,
                               std::span<const PeerRows> arriving) override;

  NcclOptions options_;
  std::unique_ptr<Engine> engine_;  // null until prepare() or the first operation on the device
};

}  // namespace conclave

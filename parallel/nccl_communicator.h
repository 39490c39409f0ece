// The Communicator between CUDA devices, one of each rank: NCCL.
//
// No operation on the device makes the host wait. A call is work of the current stream (core/cuda/launch.h),
// as a kernel is. What start_...() starts runs on a stream of the communicator's own, behind what the current
// stream had until then; Request::wait() makes the *current stream* wait, and Request::test() asks. So
// results may be used by work that is queued after wait(), and by the host after it has waited for that
// stream.
//
// NCCL, its stream and its memory come with the first operation on the device, as many groups only ever talk
// of counts; a group of one rank never needs them. NCCL's calls block: with blocking = 0 every one of them
// starts a thread and must be polled, and what that is for, to get away from a call that hangs, the watchdog
// does.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "parallel/device_communicator.h"

namespace conclave {

struct NcclOptions {
  /// What is under way for longer ends the job, as its peers are lost or do something else; 0: never. An
  /// operation's time begins once the last one is queued on its stream.
  std::chrono::milliseconds deadline = std::chrono::minutes(10);
  /// Called by the watchdog's thread, with a line that says what happened, once it has aborted all of NCCL's
  /// communicators; what was under way then leaves anything in its tensors. Empty: prints the line and ends
  /// all ranks.
  std::function<void(const std::string& what)> on_failure;
};

class NcclCommunicator final : public DeviceCommunicator {
 public:
  explicit NcclCommunicator(std::unique_ptr<Communicator> control, NcclOptions options = {});
  /// Waits for what is under way, unless an exception flies: then the peers may never come.
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

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
  std::unique_ptr<Engine> engine_;  // null until the first operation on the device
};

}  // namespace conclave

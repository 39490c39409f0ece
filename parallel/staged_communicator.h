// The Communicator between ranks that share CUDA devices, which NCCL does not support: tensors go through
// pinned memory and the Communicator that this one is built from.
//
// The host waits until the current stream has copied an operation's input to pinned memory. The output is
// copied back as work of the current stream, at the end of the operation or of its Request. So, as with NCCL,
// results may be used by work queued after that; and unlike with NCCL, the input may be overwritten at once.
// Pinned memory is reused, and grows to what the largest operations need.
#pragma once

#include <memory>
#include <vector>

#include "parallel/device_communicator.h"

namespace conclave {

class StagedCommunicator final : public DeviceCommunicator {
 public:
  explicit StagedCommunicator(std::unique_ptr<Communicator> control);
  ~StagedCommunicator() override;
  StagedCommunicator(const StagedCommunicator&) = delete;
  StagedCommunicator& operator=(const StagedCommunicator&) = delete;

  std::unique_ptr<Communicator> split(int colour) override;

 private:
  struct Stage;
  Stage& stage(std::size_t bytes);
  Request started(Stage& stage, Request request);
  bool finish(void*& native, int slot, bool block) override;

  void all_reduce_there(const Tensor& values, Reduction reduction) override;
  Request start_all_reduce_there(const Tensor& values, Reduction reduction) override;
  void broadcast_there(const Tensor& values, int root) override;
  void all_gather_there(const Tensor& mine, const Tensor& gathered) override;
  void all_to_all_there(const Tensor& send, std::span<const Index> send_rows, const Tensor& receive,
                        std::span<const Index> receive_rows) override;
  Request start_exchange_there(const Tensor& send, std::span<const PeerRows> leaving, const Tensor& receive,
                               std::span<const PeerRows> arriving) override;

  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<PeerRows> leaving_, arriving_;  // blocks of one exchange, with their places in pinned memory
};

}  // namespace conclave

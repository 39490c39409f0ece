// What the Communicators between CUDA devices share: tensors on the device are checked here, and handed to
// the engine only where there is something to do and somebody to do it with; what is in host memory (counts,
// texts, control) goes by the Communicator that this is built from.
#pragma once

#include <memory>
#include <span>

#include "parallel/communicator.h"

namespace conclave {

class DeviceCommunicator : public Communicator {
 public:
  int rank() const final { return control_->rank(); }
  int size() const final { return control_->size(); }
  Device device() const final { return Device::cuda; }
  const Communicator& host() const final { return control_->host(); }

  /// The current stream's work is done on all ranks.
  void barrier() final;
  void all_reduce(const Tensor& values, Reduction reduction) final;
  Request start_all_reduce(const Tensor& values, Reduction reduction) final;
  void broadcast(const Tensor& values, int root) final;
  void all_gather(const Tensor& mine, const Tensor& gathered) final;
  void all_to_all(const Tensor& send, std::span<const Index> send_rows, const Tensor& receive,
                  std::span<const Index> receive_rows) final;
  Request start_exchange(const Tensor& send, std::span<const PeerRows> leaving, const Tensor& receive,
                         std::span<const PeerRows> arriving) final;

  using Communicator::all_gather;
  using Communicator::broadcast;

 protected:
  /// `control` is between the same ranks.
  explicit DeviceCommunicator(std::unique_ptr<Communicator> control);
  Communicator& control() { return *control_; }

 private:
  // The operations of the same names, of several ranks, whose arguments are on the device and right.
  virtual void all_reduce_there(const Tensor& values, Reduction reduction) = 0;
  virtual Request start_all_reduce_there(const Tensor& values, Reduction reduction) = 0;
  virtual void broadcast_there(const Tensor& values, int root) = 0;
  virtual void all_gather_there(const Tensor& mine, const Tensor& gathered) = 0;
  virtual void all_to_all_there(const Tensor& send, std::span<const Index> send_rows, const Tensor& receive,
                                std::span<const Index> receive_rows) = 0;
  virtual Request start_exchange_there(const Tensor& send, std::span<const PeerRows> leaving,
                                       const Tensor& receive, std::span<const PeerRows> arriving) = 0;

  std::unique_ptr<Communicator> control_;
};

}  // namespace conclave

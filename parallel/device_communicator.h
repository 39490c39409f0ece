// The common part of the Communicators between CUDA devices. It checks tensors on the device, and calls the
// engine only if there are several ranks and, where this can be known, data to move. Tensors in host memory
// (counts, texts, control) go through the Communicator that this one is built from.
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

  /// Waits until the current stream's work is done on all ranks.
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
  /// `control` connects the same ranks in host memory.
  explicit DeviceCommunicator(std::unique_ptr<Communicator> control);
  Communicator& control() { return *control_; }

 private:
  // The operations of the same names, for engines to implement. They are called only in groups of several
  // ranks, with arguments that are checked and on the device.
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

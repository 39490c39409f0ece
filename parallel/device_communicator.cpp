#include "parallel/device_communicator.h"

#include <cuda_runtime.h>

#include "core/cuda/memory.h"
#include "core/kernels/kernel.h"
#include "core/timeline.h"
#include "parallel/communicator_arguments.h"

namespace conclave {

DeviceCommunicator::DeviceCommunicator(std::unique_ptr<Communicator> control)
    : control_(std::move(control)) {}

void DeviceCommunicator::barrier() {
  cuda::synchronize();
  control_->barrier();
}

void DeviceCommunicator::all_reduce(const Tensor& values, Reduction reduction) {
  if (values.device() == Device::cpu) return control_->all_reduce(values, reduction);
  expect_contiguous("all_reduce", "values", values);
  expect_reducible("all_reduce", values);
  if (size() == 1 || values.numel() == 0) return;
  const Timeline::Scope timed("all_reduce", Timeline::kCommunication);
  all_reduce_there(values, reduction);
}

Request DeviceCommunicator::start_all_reduce(const Tensor& values, Reduction reduction) {
  if (values.device() == Device::cpu) return control_->start_all_reduce(values, reduction);
  expect_contiguous("start_all_reduce", "values", values);
  expect_reducible("start_all_reduce", values);
  if (size() == 1 || values.numel() == 0) return {};
  return start_all_reduce_there(values, reduction);
}

void DeviceCommunicator::broadcast(const Tensor& values, int root) {
  if (values.device() == Device::cpu) return control_->broadcast(values, root);
  expect_contiguous("broadcast", "values", values);
  expect_root(root, size());
  if (size() == 1 || values.numel() == 0) return;
  const Timeline::Scope timed("broadcast", Timeline::kCommunication);
  broadcast_there(values, root);
}

void DeviceCommunicator::all_gather(const Tensor& mine, const Tensor& gathered) {
  constexpr const char* kOperation = "all_gather";
  if (!kernels::on_cuda(kOperation, mine, gathered)) return control_->all_gather(mine, gathered);
  expect_contiguous(kOperation, "mine", mine);
  expect_contiguous(kOperation, "gathered", gathered);
  expect_gathered(mine, gathered, size());
  if (mine.numel() == 0) return;
  if (size() > 1) {
    const Timeline::Scope timed(kOperation, Timeline::kCommunication);
    return all_gather_there(mine, gathered);
  }
  if (mine.raw() != gathered.raw()) cuda::copy(mine, gathered);
}

void DeviceCommunicator::all_to_all(const Tensor& send, std::span<const Index> send_rows,
                                    const Tensor& receive, std::span<const Index> receive_rows) {
  constexpr const char* kOperation = "all_to_all";
  if (!kernels::on_cuda(kOperation, send, receive))
    return control_->all_to_all(send, send_rows, receive, receive_rows);
  expect_contiguous(kOperation, "send", send);
  expect_contiguous(kOperation, "receive", receive);
  expect_row_counts("send", send, send_rows, size());
  expect_row_counts("receive", receive, receive_rows, size());
  expect_same_rows(kOperation, send, receive);
  expect_own_rows(send_rows, receive_rows, rank());
  if (size() > 1) {
    const Timeline::Scope timed(kOperation, Timeline::kCommunication);
    return all_to_all_there(send, send_rows, receive, receive_rows);
  }
  if (send.raw() != receive.raw()) cuda::copy(send.rows(0, send_rows[0]), receive.rows(0, send_rows[0]));
}

Request DeviceCommunicator::start_exchange(const Tensor& send, std::span<const PeerRows> leaving,
                                           const Tensor& receive, std::span<const PeerRows> arriving) {
  constexpr const char* kOperation = "start_exchange";
  if (!kernels::on_cuda(kOperation, send, receive))
    return control_->start_exchange(send, leaving, receive, arriving);
  expect_contiguous(kOperation, "send", send);
  expect_contiguous(kOperation, "receive", receive);
  expect_same_rows(kOperation, send, receive);
  expect_blocks(receive, arriving, "receive", rank(), size());
  expect_blocks(send, leaving, "send", rank(), size());
  if (size() == 1) return {};
  return start_exchange_there(send, leaving, receive, arriving);
}

}  // namespace conclave

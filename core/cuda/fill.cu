#include "core/cuda/memory.h"
#include "core/kernels/cuda_kernel.h"

namespace conclave::cuda {
namespace {

template <class T>
struct Fill {
  T value;
  T* to;
  template <int kWidth>
  __device__ void at(Index i) const {
    kernels::cuda::Pack<T, kWidth> all;
    for (T& one : all.at) one = value;
    kernels::cuda::store<kWidth>(to + i, all);
  }
};

}  // namespace

void fill(const Tensor& tensor, double value) {
  const auto run = [&]<class T>(T) {
    kernels::cuda::for_flat<T>("fill", tensor.numel(), {tensor.raw()},
                               Fill<T>{static_cast<T>(value), tensor.data<T>()});
  };
  if (tensor.dtype() == DType::i32) return run(std::int32_t{});
  for_floating(tensor.dtype(), "fill", run);
}

}  // namespace conclave::cuda

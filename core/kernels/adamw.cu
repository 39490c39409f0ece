#include "core/cuda/upload.h"
#include "core/kernels/adamw.h"
#include "core/kernels/adamw_update.h"
#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {
namespace {

template <class T>
struct AdamW {
  const AdamWUpdate<T>* numbers;
  Decay decay;
  const T* gradients;
  T *values, *first_moment, *second_moment, *averages;
  template <int kWidth>
  __device__ void at(Index i) const {
    const AdamWUpdate<T> update(*numbers, decay);
    const Pack<T, kWidth> g = load<kWidth>(gradients + i);
    Pack<T, kWidth> w = load<kWidth>(values + i), m = load<kWidth>(first_moment + i),
                    v = load<kWidth>(second_moment + i);
    for (int j = 0; j < kWidth; ++j) update.step(g.at[j], w.at[j], m.at[j], v.at[j]);
    store<kWidth>(values + i, w);
    store<kWidth>(first_moment + i, m);
    store<kWidth>(second_moment + i, v);
    if (!averages) return;
    Pack<T, kWidth> a = load<kWidth>(averages + i);
    for (int j = 0; j < kWidth; ++j) update.average(w.at[j], a.at[j]);
    store<kWidth>(averages + i, a);
  }
};

}  // namespace

void prepare_adamw(const AdamWOptions& options, const Tensor& numbers) {
  for_floating(numbers.dtype(), "adamw", [&]<class T>(T) {
    const AdamWUpdate<T> update(options);
    conclave::cuda::upload("adamw", std::span(&update, 1), static_cast<AdamWUpdate<T>*>(numbers.raw()));
  });
}

void adamw(const Tensor& values, const Tensor& gradients, const Tensor& first_moment,
           const Tensor& second_moment, const Tensor& average, Decay decay, const Tensor& numbers) {
  for_floating(values.dtype(), "adamw", [&]<class T>(T) {
    const AdamW<T> body{.numbers = static_cast<const AdamWUpdate<T>*>(numbers.raw()),
                        .decay = decay,
                        .gradients = gradients.data<T>(),
                        .values = values.data<T>(),
                        .first_moment = first_moment.data<T>(),
                        .second_moment = second_moment.data<T>(),
                        .averages = average.defined() ? average.data<T>() : nullptr};
    for_flat<T>("adamw", values.numel(),
                {body.gradients, body.values, body.first_moment, body.second_moment, body.averages}, body);
  });
}

}  // namespace conclave::kernels::cuda

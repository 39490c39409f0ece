#include "core/cuda/scratch.h"
#include "core/kernels/cuda_column_sums.h"
#include "core/kernels/cuda_kernel.h"
#include "core/kernels/layer_norm.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels::cuda {
namespace {

// A row is read three times, but only the first time from memory: the rows of a block stay in its L1.
template <class T, bool kGelu, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    layer_norm_kernel(Index rows, Index hidden, const T* x, const T* gamma, const T* beta, T epsilon, T* y,
                      T* mean, T* rstd) {
  for_team_rows(rows, [&](Index row) {
    const T* in = x + row * hidden;
    T sum = 0;
    for_columns<kWidth, kTeam>(hidden, [&](Index i) {
      const Pack<T, kWidth> value = load<kWidth>(in + i);
      for (int j = 0; j < kWidth; ++j) sum += value.at[j];
    });
    const T average = team_sum<kTeam>(sum) / static_cast<T>(hidden);
    T squares = 0;
    for_columns<kWidth, kTeam>(hidden, [&](Index i) {
      const Pack<T, kWidth> value = load<kWidth>(in + i);
      for (int j = 0; j < kWidth; ++j) squares += (value.at[j] - average) * (value.at[j] - average);
    });
    const T r = T(1) / std::sqrt(team_sum<kTeam>(squares) / static_cast<T>(hidden) + epsilon);
    if (threadIdx.x == 0) {
      mean[row] = average;
      rstd[row] = r;
    }
    for_columns<kWidth, kTeam>(hidden, [&](Index i) {
      Pack<T, kWidth> value = load<kWidth>(in + i);
      const Pack<T, kWidth> g = load<kWidth>(gamma + i), b = load<kWidth>(beta + i);
      for (int j = 0; j < kWidth; ++j) {
        value.at[j] = (value.at[j] - average) * r * g.at[j] + b.at[j];
        if constexpr (kGelu) {
          T unused;
          value.at[j] = gelu(value.at[j], unused);
        }
      }
      store<kWidth>(y + row * hidden + i, value);
    });
  });
}

// Writes dx and, with GELU, the gradient behind it to dz.
template <class T, bool kGelu, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    layer_norm_backward_kernel(Index rows, Index hidden, const T* dy, const T* x, const T* gamma,
                               const T* beta, const T* mean, const T* rstd, T* dx, Write mode, T* dz) {
  for_team_rows(rows, [&](Index row) {
    const T *in = x + row * hidden, *up = dy + row * hidden;
    const T average = mean[row], r = rstd[row];
    T sum = 0, dot = 0;
    for_columns<kWidth, kTeam>(hidden, [&](Index i) {
      const Pack<T, kWidth> value = load<kWidth>(in + i), g = load<kWidth>(gamma + i);
      Pack<T, kWidth> d = load<kWidth>(up + i);
      if constexpr (kGelu) {
        const Pack<T, kWidth> b = load<kWidth>(beta + i);
        for (int j = 0; j < kWidth; ++j) {
          T derivative;
          gelu((value.at[j] - average) * r * g.at[j] + b.at[j], derivative);
          d.at[j] *= derivative;
        }
        store<kWidth>(dz + row * hidden + i, d);
      }
      for (int j = 0; j < kWidth; ++j) {
        sum += d.at[j] * g.at[j];
        dot += d.at[j] * g.at[j] * (value.at[j] - average) * r;
      }
    });
    sum = team_sum<kTeam>(sum) / static_cast<T>(hidden);
    dot = team_sum<kTeam>(dot) / static_cast<T>(hidden);
    if constexpr (kGelu) up = dz + row * hidden;  // what this thread itself has written
    for_columns<kWidth, kTeam>(hidden, [&](Index i) {
      const Pack<T, kWidth> value = load<kWidth>(in + i), g = load<kWidth>(gamma + i);
      Pack<T, kWidth> d = load<kWidth>(up + i);
      for (int j = 0; j < kWidth; ++j)
        d.at[j] = (d.at[j] * g.at[j] - sum - (value.at[j] - average) * r * dot) * r;
      write_pack<kWidth>(dx + row * hidden + i, d, mode);
    });
  });
}

// One row's part of the gradients of gamma and beta.
template <class T>
struct ParameterTerms {
  Index hidden;
  const T *dz, *x, *mean, *rstd;
  __device__ void operator()(Index row, Index column, T (&sums)[2]) const {
    const T d = dz[row * hidden + column];
    sums[0] += d * (x[row * hidden + column] - mean[row]) * rstd[row];
    sums[1] += d;
  }
};

}  // namespace

void layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, LayerNormOptions options,
                const Tensor& y, const Tensor& mean, const Tensor& rstd) {
  const Index rows = x.size(0), hidden = x.size(1);
  if (rows == 0) return;
  for_floating(x.dtype(), "layer_norm", [&]<class T>(T) {
    const auto run = [&]<int kWidth, int kTeam>() {
      launch("layer_norm",
             options.gelu ? layer_norm_kernel<T, true, kWidth, kTeam>
                          : layer_norm_kernel<T, false, kWidth, kTeam>,
             team_shape<kTeam>(rows), rows, hidden, x.data<T>(), gamma.data<T>(), beta.data<T>(),
             static_cast<T>(options.epsilon), y.data<T>(), mean.data<T>(), rstd.data<T>());
    };
    for_team<T>(hidden, {x.raw(), gamma.raw(), beta.raw(), y.raw()}, run);
  });
}

void layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                         LayerNormOptions options, const Tensor& mean, const Tensor& rstd, const Tensor& dx,
                         Write write, const Tensor& dgamma, const Tensor& dbeta, const Tensor& scratch) {
  const Index rows = x.size(0), hidden = x.size(1);
  if (x.numel() == 0) return;
  for_floating(x.dtype(), "layer_norm backward", [&]<class T>(T) {
    T* dz = options.gelu ? scratch.data<T>() : nullptr;
    const auto run = [&]<int kWidth, int kTeam>() {
      launch("layer_norm backward",
             options.gelu ? layer_norm_backward_kernel<T, true, kWidth, kTeam>
                          : layer_norm_backward_kernel<T, false, kWidth, kTeam>,
             team_shape<kTeam>(rows), rows, hidden, dy.data<T>(), x.data<T>(), gamma.data<T>(),
             beta.data<T>(), mean.data<T>(), rstd.data<T>(), dx.data<T>(), write, dz);
    };
    for_team<T>(hidden, {dy.raw(), x.raw(), gamma.raw(), beta.raw(), dx.raw(), dz}, run);
    // dx may not be dy or x: the rows are read again here.
    const ParameterTerms<T> terms{hidden, dz ? dz : dy.data<T>(), x.data<T>(), mean.data<T>(),
                                  rstd.data<T>()};
    add_column_sums<T, 2>("layer_norm backward", rows, hidden, terms, {dgamma.data<T>(), dbeta.data<T>()});
  });
}

}  // namespace conclave::kernels::cuda

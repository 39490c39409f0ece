#include <algorithm>

#include "core/cuda/scratch.h"
#include "core/cuda/shared_memory.h"
#include "core/kernels/cuda_column_sums.h"
#include "core/kernels/cuda_kernel.h"
#include "core/kernels/layer_norm.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels::cuda {
namespace {

using conclave::cuda::Scratch;
using conclave::cuda::shared_memory;

// A row is read three times, but from memory only the first time: the rows of a block stay in its L1 cache.
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

// The columns for which a block can hold the gradients: 32 KiB of them.
template <class T>
constexpr Index kWindow = Index{32 * 1024} / sizeof(T);
// The longest row for a warp: the sums of eight rows, and with GELU their gradients, take 96 KiB of shared
// memory.
template <class T>
constexpr Index kWarpsRow = Index{4 * 1024} / sizeof(T);

// A team's arrays in shared memory: its sums for gamma and beta and, with GELU, the gradient at GELU's input.
template <bool kGelu>
constexpr Index kArrays = kGelu ? 3 : 2;

// Writes dx, and to partial [blocks, 2, hidden] the block's part of the gradients of gamma and beta. Blocks
// are [blocks, windows of columns]: each reads whole rows, but writes its window of dx. A thread has the same
// columns of each row, so no other thread reads its part of shared memory before the end. As many blocks
// share a multiprocessor as shared memory has room for; fewer for f64, for lack of registers.
template <class T, bool kGelu, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock, sizeof(T) == sizeof(float) ? 3 : 2)
    layer_norm_backward_kernel(Index rows, Index hidden, const T* dy, const T* x, const T* gamma,
                               const T* beta, const T* mean, const T* rstd, T* dx, Write mode, T* partial) {
  static_assert(kWindow<T> % (kTeam * kWidth) == 0, "the windows begin where a team's first thread is");
  const Index begin = Index{blockIdx.y} * kWindow<T>, columns = min(hidden - begin, kWindow<T>);
  T* const shared = shared_memory<T>();
  T *dgamma = shared + Index{threadIdx.y} * kArrays<kGelu> * columns, *dbeta = dgamma + columns,
    *dz = dbeta + columns;
  for_columns<kWidth, kTeam>(columns, [&](Index i) {
    store<kWidth>(dgamma + i, Pack<T, kWidth>{});
    store<kWidth>(dbeta + i, Pack<T, kWidth>{});
  });
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
        if (i >= begin && i < begin + columns) store<kWidth>(dz + i - begin, d);
      }
      for (int j = 0; j < kWidth; ++j) {
        sum += d.at[j] * g.at[j];
        dot += d.at[j] * g.at[j] * (value.at[j] - average) * r;
      }
    });
    sum = team_sum<kTeam>(sum) / static_cast<T>(hidden);
    dot = team_sum<kTeam>(dot) / static_cast<T>(hidden);
    for_columns<kWidth, kTeam>(columns, [&](Index i) {
      const Pack<T, kWidth> value = load<kWidth>(in + begin + i), g = load<kWidth>(gamma + begin + i),
                            d = load<kWidth>(kGelu ? dz + i : up + begin + i);
      Pack<T, kWidth> gradient, for_gamma = load<kWidth>(dgamma + i), for_beta = load<kWidth>(dbeta + i);
      for (int j = 0; j < kWidth; ++j) {
        const T normalized = (value.at[j] - average) * r;
        gradient.at[j] = (d.at[j] * g.at[j] - sum - normalized * dot) * r;
        for_gamma.at[j] += d.at[j] * normalized;
        for_beta.at[j] += d.at[j];
      }
      write_pack<kWidth>(dx + row * hidden + begin + i, gradient, mode);
      store<kWidth>(dgamma + i, for_gamma);
      store<kWidth>(dbeta + i, for_beta);
    });
  });
  __syncthreads();
  for (Index i = Index{threadIdx.y} * kTeam + threadIdx.x; i < columns; i += kBlock)
    for (int s = 0; s < 2; ++s) {
      T sum = 0;
      for (int team = 0; team < kBlock / kTeam; ++team)
        sum += shared[(team * kArrays<kGelu> + s) * columns + i];
      partial[(Index{blockIdx.x} * 2 + s) * hidden + begin + i] = sum;
    }
}

// One block's part of the gradients of gamma and beta.
template <class T>
struct ParameterTerms {
  Index hidden;
  const T* partial;
  __device__ void operator()(Index block, Index column, T (&sums)[2]) const {
    for (int s = 0; s < 2; ++s) sums[s] += partial[(block * 2 + s) * hidden + column];
  }
};

// The number of blocks. A block writes partial sums, 2 hidden, which are read again; with 16 rows of 3 hidden
// each, this is at most a twelfth of its work. It is less if the rows need more than two blocks for each of
// an H100's multiprocessors.
Index backward_blocks(Index rows) {
  constexpr Index kRows = 16, kManyRows = 64, kTwoEach = 264;
  return std::clamp(std::min(rows / kRows, std::max(kTwoEach, rows / kManyRows)), Index{1}, kMaxBlocks);
}

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
                         Write write, const Tensor& dgamma, const Tensor& dbeta) {
  const char* operation = "layer_norm backward";
  const Index rows = x.size(0), hidden = x.size(1);
  if (x.numel() == 0) return;
  for_floating(x.dtype(), operation, [&]<class T>(T) {
    const Index blocks = backward_blocks(rows), windows = (hidden + kWindow<T> - 1) / kWindow<T>;
    Scratch scratch;
    T* const partial = scratch.array<T>(blocks * 2 * hidden);
    const auto run = [&]<int kWidth, int kTeam>() {
      const auto launch_for = [&]<bool kGelu>() {
        const Index elements = kBlock / kTeam * kArrays<kGelu> * std::min(hidden, kWindow<T>);
        launch(operation, layer_norm_backward_kernel<T, kGelu, kWidth, kTeam>,
               {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(windows)),
                .block = dim3(kTeam, kBlock / kTeam),
                .shared_bytes = static_cast<std::size_t>(elements) * sizeof(T)},
               rows, hidden, dy.data<T>(), x.data<T>(), gamma.data<T>(), beta.data<T>(), mean.data<T>(),
               rstd.data<T>(), dx.data<T>(), write, partial);
      };
      if (options.gelu)
        launch_for.template operator()<true>();
      else
        launch_for.template operator()<false>();
    };
    for_team<T>(hidden, {dy.raw(), x.raw(), gamma.raw(), beta.raw(), dx.raw()}, run, kWarpsRow<T>);
    add_column_sums<T, 2>(operation, blocks, hidden, ParameterTerms<T>{hidden, partial},
                          {dgamma.data<T>(), dbeta.data<T>()});
  });
}

}  // namespace conclave::kernels::cuda

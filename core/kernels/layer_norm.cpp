#include "core/kernels/layer_norm.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/vector_math.h"

namespace conclave::kernels {
namespace {

constexpr Index kBlockElements = 1 << 15;  // of rows that fit into a core's cache

}  // namespace

void layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, LayerNormOptions options,
                const Tensor& y, const Tensor& mean, const Tensor& rstd) {
  expect_rank("layer_norm", "x", x, 2);
  const Index rows = x.size(0), hidden = x.size(1);
  expect("layer_norm", "gamma", gamma, {hidden}, x.dtype());
  expect("layer_norm", "beta", beta, {hidden}, x.dtype());
  expect("layer_norm", "y", y, x.shape(), x.dtype());
  expect("layer_norm", "mean", mean, {rows}, x.dtype());
  expect("layer_norm", "rstd", rstd, {rows}, x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("layer_norm", x, gamma, beta, y, mean, rstd))
      return cuda::layer_norm(x, gamma, beta, options, y, mean, rstd);
  for_floating(x.dtype(), "layer_norm", [&]<class T>(T) {
    const T *px = x.data<T>(), *pg = gamma.data<T>(), *pb = beta.data<T>();
    T *py = y.data<T>(), *pm = mean.data<T>(), *pr = rstd.data<T>();
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      const T* in = px + row * hidden;
      T* out = py + row * hidden;
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (Index i = 0; i < hidden; ++i) sum += in[i];
      const T average = sum / static_cast<T>(hidden);
      T squares = 0;
#pragma omp simd reduction(+ : squares)
      for (Index i = 0; i < hidden; ++i) squares += (in[i] - average) * (in[i] - average);
      const T r = T(1) / std::sqrt(squares / static_cast<T>(hidden) + static_cast<T>(options.epsilon));
      pm[row] = average;
      pr[row] = r;
#pragma omp simd
      for (Index i = 0; i < hidden; ++i) out[i] = (in[i] - average) * r * pg[i] + pb[i];
      if (options.gelu) {
#pragma omp simd
        for (Index i = 0; i < hidden; ++i) {
          T unused;
          out[i] = gelu(out[i], unused);
        }
      }
    }
  });
}

void layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                         LayerNormOptions options, const Tensor& mean, const Tensor& rstd, const Tensor& dx,
                         Write write, const Tensor& dgamma, const Tensor& dbeta, const Tensor& scratch) {
  const Index rows = x.size(0), hidden = x.size(1);
  expect("layer_norm backward", "dy", dy, x.shape(), x.dtype());
  expect("layer_norm backward", "dx", dx, x.shape(), x.dtype());
  expect("layer_norm backward", "dgamma", dgamma, {hidden}, x.dtype());
  expect("layer_norm backward", "dbeta", dbeta, {hidden}, x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("layer_norm backward", dy, x, gamma, beta, mean, rstd, dx, dgamma, dbeta))
      return cuda::layer_norm_backward(dy, x, gamma, beta, options, mean, rstd, dx, write, dgamma, dbeta);
  if (options.gelu) expect("layer_norm backward", "scratch", scratch, x.shape(), x.dtype());
  for_floating(x.dtype(), "layer_norm backward", [&]<class T>(T) {
    const T *pdy = dy.data<T>(), *px = x.data<T>(), *pg = gamma.data<T>(), *pb = beta.data<T>();
    const T *pm = mean.data<T>(), *pr = rstd.data<T>();
    T *pdx = dx.data<T>(), *pdg = dgamma.data<T>(), *pdb = dbeta.data<T>();
    T* pdz =
        options.gelu ? scratch.data<T>() : nullptr;  // gradient behind GELU, at the normalization's output
    // The columns' sums are over rows that are still in the cache.
    const Index block = std::max<Index>(1, kBlockElements / std::max<Index>(1, hidden));
    const bool parallel = x.numel() > kParallelElements;
#pragma omp parallel if (parallel)
    for (Index first = 0; first < rows; first += block) {
      const Index last = std::min(rows, first + block);
#pragma omp for schedule(static)
      for (Index row = first; row < last; ++row) {
        const T *in = px + row * hidden, *up = pdy + row * hidden;
        const T average = pm[row], r = pr[row];
        if (pdz) {
          T* dz = pdz + row * hidden;
#pragma omp simd
          for (Index i = 0; i < hidden; ++i) {
            T derivative;
            gelu((in[i] - average) * r * pg[i] + pb[i], derivative);
            dz[i] = up[i] * derivative;
          }
          up = dz;
        }
        T sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
        for (Index i = 0; i < hidden; ++i) {
          const T d = up[i] * pg[i];
          sum += d;
          dot += d * (in[i] - average) * r;
        }
        sum /= static_cast<T>(hidden);
        dot /= static_cast<T>(hidden);
        T* out = pdx + row * hidden;
        const T keep = write == Write::accumulate ? T(1) : T(0);
        if (keep == T(0)) {
#pragma omp simd
          for (Index i = 0; i < hidden; ++i) out[i] = (up[i] * pg[i] - sum - (in[i] - average) * r * dot) * r;
        } else {
#pragma omp simd
          for (Index i = 0; i < hidden; ++i)
            out[i] += (up[i] * pg[i] - sum - (in[i] - average) * r * dot) * r;
        }
      }
      // Columns are divided among the threads, so that each sum runs over the rows in one fixed order.
      const Index threads = omp_get_num_threads(), me = omp_get_thread_num();
      const Index begin = hidden * me / threads, end = hidden * (me + 1) / threads;
      const T* up = pdz ? pdz : pdy;
      for (Index row = first; row < last; ++row) {
        const T average = pm[row], r = pr[row];
#pragma omp simd
        for (Index i = begin; i < end; ++i) {
          pdg[i] += up[row * hidden + i] * (px[row * hidden + i] - average) * r;
          pdb[i] += up[row * hidden + i];
        }
      }
    }
  });
}

}  // namespace conclave::kernels

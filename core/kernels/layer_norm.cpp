#include "core/kernels/layer_norm.h"

#include <algorithm>

#include "core/kernels/layer_norm_rows.h"
#include "core/kernels/tile.h"

namespace conclave::kernels {

template void layer_norm_rows::forward<float, 32>(const Row<float>&, double, float*, float&, float&);
template void layer_norm_rows::forward<double, 32>(const Row<double>&, double, double*, double&, double&);
template void layer_norm_rows::backward<float, 32>(const Row<float>&, const RowGradients<float>&);
template void layer_norm_rows::backward<double, 32>(const Row<double>&, const RowGradients<double>&);

namespace {

using layer_norm_rows::Row, layer_norm_rows::RowGradients;

// Only f32 uses wide vectors, as in activation_wide.cpp.
template <class T>
void forward(const Row<T>& row, double epsilon, T* y, T& mean, T& rstd) {
#ifdef CONCLAVE_WIDE_VECTORS
  if constexpr (sizeof(T) == 4)
    if (has_wide_vectors()) return layer_norm_rows::forward<T, 64>(row, epsilon, y, mean, rstd);
#endif
  layer_norm_rows::forward<T, 32>(row, epsilon, y, mean, rstd);
}

template <class T>
void backward(const Row<T>& row, const RowGradients<T>& gradients) {
#ifdef CONCLAVE_WIDE_VECTORS
  if constexpr (sizeof(T) == 4)
    if (has_wide_vectors()) return layer_norm_rows::backward<T, 64>(row, gradients);
#endif
  layer_norm_rows::backward<T, 32>(row, gradients);
}

}  // namespace

void layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, LayerNormOptions options,
                const Tensor& y, const Tensor& mean, const Tensor& rstd) {
  expect_rank("layer_norm", "x", x, 2);
  expect("layer_norm", "x", x, x.shape(), x.dtype());
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
    // A row's sums take several times as long as a simple operation on each element.
#pragma omp parallel for schedule(static) if (4 * x.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row)
      forward<T>({px + row * hidden, pg, pb, hidden, options.gelu}, options.epsilon, py + row * hidden,
                 pm[row], pr[row]);
  });
}

void layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                         LayerNormOptions options, const Tensor& mean, const Tensor& rstd, const Tensor& dx,
                         Write write, const Tensor& dgamma, const Tensor& dbeta, const Tensor& scratch) {
  const Index rows = x.size(0), hidden = x.size(1);
  expect("layer_norm backward", "x", x, {rows, hidden}, x.dtype());
  expect("layer_norm backward", "dy", dy, x.shape(), x.dtype());
  expect("layer_norm backward", "dx", dx, x.shape(), x.dtype());
  expect("layer_norm backward", "dgamma", dgamma, {hidden}, x.dtype());
  expect("layer_norm backward", "dbeta", dbeta, {hidden}, x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("layer_norm backward", dy, x, gamma, beta, mean, rstd, dx, dgamma, dbeta))
      return cuda::layer_norm_backward(dy, x, gamma, beta, options, mean, rstd, dx, write, dgamma, dbeta);
  const Index parts = layer_norm_parts(rows);
  expect("layer_norm backward", "scratch", scratch, {parts, 3, hidden}, x.dtype());
  for_floating(x.dtype(), "layer_norm backward", [&]<class T>(T) {
    const T *pdy = dy.data<T>(), *px = x.data<T>(), *pg = gamma.data<T>(), *pb = beta.data<T>();
    const T *pm = mean.data<T>(), *pr = rstd.data<T>();
    T *pdx = dx.data<T>(), *pdg = dgamma.data<T>(), *pdb = dbeta.data<T>(), *ps = scratch.data<T>();
#pragma omp parallel if (x.numel() > kParallelElements)
    {
#pragma omp for schedule(static)
      for (Index part = 0; part < parts; ++part) {
        T* of_part = ps + part * 3 * hidden;
        std::fill_n(of_part, 2 * hidden, T(0));
        for (Index row = rows * part / parts; row < rows * (part + 1) / parts; ++row)
          backward<T>({px + row * hidden, pg, pb, hidden, options.gelu}, {.dy = pdy + row * hidden,
                                                                          .mean = pm[row],
                                                                          .rstd = pr[row],
                                                                          .dx = pdx + row * hidden,
                                                                          .dgamma = of_part,
                                                                          .dbeta = of_part + hidden,
                                                                          .write = write,
                                                                          .scratch = of_part + 2 * hidden});
      }
#pragma omp for simd schedule(static)
      for (Index i = 0; i < hidden; ++i)
        for (Index part = 0; part < parts; ++part) {
          pdg[i] += ps[part * 3 * hidden + i];
          pdb[i] += ps[(part * 3 + 1) * hidden + i];
        }
    }
  });
}

}  // namespace conclave::kernels

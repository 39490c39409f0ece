// Rows of layer normalization, in vectors of 32 bytes or, on processors with AVX-512, of 64 bytes. A row's
// sum consists of the same partial sums either way, so its bits are the same.
#pragma once

#include "core/kernels/kernel.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels::layer_norm_rows {

template <class T>
struct Row {
  const T *x, *gamma, *beta;
  Index hidden;
  bool gelu;
};

/// Further arguments of a row's backward pass.
template <class T>
struct RowGradients {
  const T* dy;
  T mean, rstd;
  T *dx, *dgamma, *dbeta;  // the latter accumulate
  Write write;
  T* scratch;  // [hidden]
};

constexpr Index kSums = 16;

// Calls each(i, i mod kSums) for i of [0, count): vectors of columns, with separate sums for each lane.
// Prefetches the next row's values, which begin at `next`; the processor itself would not prefetch beyond the
// page.
template <class Each, class... Places>
[[gnu::always_inline]] inline void for_columns(Index count, Each each, Places*... next) {
  Index i = 0;
  for (; i + kSums <= count; i += kSums) {
    (__builtin_prefetch(next + i), ...);
#pragma omp simd
    for (Index lane = 0; lane < kSums; ++lane) each(i + lane, lane);
  }
  for (Index lane = 0; i + lane < count; ++lane) each(i + lane, lane);
}

template <class T>
[[gnu::always_inline]] inline T total(T (&sums)[kSums]) {
  for (Index half = kSums / 2; half > 0; half /= 2)
    for (Index lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

template <class T, int kBytes>
void forward(const Row<T>& row, double epsilon, T* y, T& mean, T& rstd) {
  const auto [x, gamma, beta, hidden, gelu_follows] = row;
  T sums[kSums] = {}, squares[kSums] = {};
  for_columns(hidden, [&](Index i, Index lane) { sums[lane] += x[i]; });
  const T average = total(sums) / static_cast<T>(hidden);
  for_columns(hidden, [&](Index i, Index lane) { squares[lane] += (x[i] - average) * (x[i] - average); });
  const T r = T(1) / std::sqrt(total(squares) / static_cast<T>(hidden) + static_cast<T>(epsilon));
  mean = average;
  rstd = r;
  const auto normalized = [&](Index i) { return (x[i] - average) * r * gamma[i] + beta[i]; };
  if (gelu_follows) {
    for_columns(
        hidden,
        [&](Index i, Index) {
          T unused;
          y[i] = gelu(normalized(i), unused);
        },
        x + hidden, y + hidden);
  } else {
    for_columns(
        hidden, [&](Index i, Index) { y[i] = normalized(i); }, x + hidden, y + hidden);
  }
}

template <class T, int kBytes>
void backward(const Row<T>& row, const RowGradients<T>& gradients) {
  const auto [x, gamma, beta, hidden, gelu_follows] = row;
  const auto [dy, mean, rstd, dx, dgamma, dbeta, write, scratch] = gradients;
  T sums[kSums] = {}, dots[kSums] = {};
  const auto add = [&](Index i, Index lane, T normal, T up) {
    const T d = up * gamma[i];
    sums[lane] += d;
    dots[lane] += d * normal;
    dgamma[i] += up * normal;
    dbeta[i] += up;
    scratch[i] = d;
  };
  if (gelu_follows) {
    for_columns(
        hidden,
        [&](Index i, Index lane) {
          const T normal = (x[i] - mean) * rstd;
          T derivative;
          gelu(normal * gamma[i] + beta[i], derivative);
          add(i, lane, normal, dy[i] * derivative);
        },
        x + hidden, dy + hidden, dx + hidden);
  } else {
    for_columns(
        hidden, [&](Index i, Index lane) { add(i, lane, (x[i] - mean) * rstd, dy[i]); }, x + hidden,
        dy + hidden, dx + hidden);
  }
  const T sum = total(sums) / static_cast<T>(hidden), dot = total(dots) / static_cast<T>(hidden);
  for_columns(hidden, [&](Index i, Index) {
    const T d = (scratch[i] - sum - (x[i] - mean) * rstd * dot) * rstd;
    dx[i] = write == Write::assign ? d : dx[i] + d;
  });
}

extern template void forward<float, 32>(const Row<float>&, double, float*, float&, float&);
extern template void forward<double, 32>(const Row<double>&, double, double*, double&, double&);
extern template void forward<float, 64>(const Row<float>&, double, float*, float&, float&);
extern template void backward<float, 32>(const Row<float>&, const RowGradients<float>&);
extern template void backward<double, 32>(const Row<double>&, const RowGradients<double>&);
extern template void backward<float, 64>(const Row<float>&, const RowGradients<float>&);

}  // namespace conclave::kernels::layer_norm_rows

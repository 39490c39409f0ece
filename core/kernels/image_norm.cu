#include <cmath>

#include "core/kernels/cuda_column_sums.h"
#include "core/kernels/cuda_kernel.h"
#include "core/kernels/image_norm.h"

namespace conclave::kernels::cuda {
namespace {

// ---- Groups: a warp for each; a group's channels are adjacent

template <class T>
__global__ void __launch_bounds__(kBlock)
    group_norm_table_kernel(Index all_groups, Index groups, Index share, T pixels, T epsilon, const T* mean,
                            const T* squares, const T* gamma, T* centre, T* rstd, T* factor) {
  for_team_rows(all_groups, [&](Index group) {
    const Index first = group * share;
    const T *m = mean + first, *q = squares + first, *g = gamma + group % groups * share;
    T sum = 0;
    for_columns<1, kWarp>(share, [&](Index c) { sum += m[c]; });
    const T middle = team_sum<kWarp>(sum) / static_cast<T>(share);
    // Each channel's squares are about its own mean; this moves them to the group's (Chan, Golub, LeVeque
    // 1979).
    T square = 0;
    for_columns<1, kWarp>(share,
                          [&](Index c) { square += q[c] + pixels * (m[c] - middle) * (m[c] - middle); });
    const T count = pixels > T(0) ? pixels * static_cast<T>(share) : T(1);
    const T r = T(1) / std::sqrt(team_sum<kWarp>(square) / count + epsilon);
    for_columns<1, kWarp>(share, [&](Index c) {
      centre[first + c] = middle;
      rstd[first + c] = r;
      factor[first + c] = r * g[c];
    });
  });
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    group_norm_backward_table_kernel(Index all_groups, Index groups, Index share, T pixels, const T* sums,
                                     const T* dots, const T* gamma, const T* rstd, T* slope, T* addend) {
  for_team_rows(all_groups, [&](Index group) {
    const Index first = group * share;
    const T *s = sums + first, *d = dots + first, *g = gamma + group % groups * share;
    const T r = rstd[first];
    T sum = 0, dot = 0;
    for_columns<1, kWarp>(share, [&](Index c) {
      sum += g[c] * s[c];
      dot += g[c] * d[c] * r;
    });
    sum = team_sum<kWarp>(sum);
    dot = team_sum<kWarp>(dot);
    const T count = pixels > T(0) ? pixels * static_cast<T>(share) : T(1);
    for_columns<1, kWarp>(share, [&](Index c) {
      slope[first + c] = -r * r * dot / count;
      addend[first + c] = -r * sum / count;
    });
  });
}

// An image's part of the gradients of gamma and beta.
template <class T>
struct GroupParameters {
  Index channels;
  const T *sums, *dots, *rstd;
  __device__ void operator()(Index image, Index channel, T (&to)[2]) const {
    const Index i = image * channels + channel;
    to[0] += dots[i] * rstd[i];
    to[1] += sums[i];
  }
};

// ---- The batch: totals of channels over images, in f64

template <class T>
struct MomentTotals {
  Index channels;
  double pixels;
  const T *mean, *squares;
  __device__ void operator()(Index image, Index channel, double (&to)[2]) const {
    const double m = mean[image * channels + channel];
    to[0] += pixels * m;
    to[1] += squares[image * channels + channel] + pixels * m * m;
  }
};

template <class T>
struct DotTotals {
  Index channels;
  const T *sums, *dots;
  __device__ void operator()(Index image, Index channel, double (&to)[2]) const {
    to[0] += sums[image * channels + channel];
    to[1] += dots[image * channels + channel];
  }
};

// totals [2, channels]
template <class Terms>
void total(const char* operation, Index images, const Terms& terms, const Tensor& totals) {
  totals.zero();
  double* const first = totals.data<double>();
  add_column_sums<double, 2>(operation, images, terms.channels, terms, {first, first + terms.channels});
}

template <class T>
__device__ void follow(T& value, double now, double momentum) {
  value = static_cast<T>((1 - momentum) * static_cast<double>(value) + momentum * now);
}

template <class T>
struct BatchTable {
  Index channels;
  double count, epsilon, momentum;
  const double* totals;
  const T* gamma;
  T *centre, *rstd, *factor, *running_mean, *running_variance;
  template <int>
  __device__ void at(Index c) const {
    const double mean = totals[c] / count, square = totals[channels + c] / count - mean * mean,
                 variance = square < 0 ? 0 : square;
    const T r = static_cast<T>(1 / std::sqrt(variance + epsilon));
    centre[c] = static_cast<T>(mean);
    rstd[c] = r;
    factor[c] = r * gamma[c];
    follow(running_mean[c], mean, momentum);
    follow(running_variance[c], variance * count / (count > 2 ? count - 1 : 1), momentum);
  }
};

template <class T>
struct RunningTable {
  T epsilon;
  const T *running_mean, *running_variance, *gamma;
  T *centre, *rstd, *factor;
  template <int>
  __device__ void at(Index c) const {
    const T r = T(1) / std::sqrt(running_variance[c] + epsilon);
    centre[c] = running_mean[c];
    rstd[c] = r;
    factor[c] = r * gamma[c];
  }
};

template <class T>
struct BatchParameters {
  Index channels;
  const double* totals;
  const T* rstd;
  T *dgamma, *dbeta;
  template <int>
  __device__ void at(Index c) const {
    dgamma[c] += static_cast<T>(totals[channels + c]) * rstd[c];
    dbeta[c] += static_cast<T>(totals[c]);
  }
};

template <class T>
struct BatchBackwardTable {
  Index channels;
  double count;
  const double* totals;
  const T *gamma, *rstd;
  T *slope, *addend;
  template <int>
  __device__ void at(Index c) const {
    const double r = rstd[c], g = gamma[c];
    slope[c] = static_cast<T>(-g * r * r * r * totals[channels + c] / count);
    addend[c] = static_cast<T>(-g * r * totals[c] / count);
  }
};

}  // namespace

void group_norm_table(const Tensor& mean, const Tensor& squares, Index pixels, Index groups, double epsilon,
                      const Tensor& gamma, const Tensor& centre, const Tensor& rstd, const Tensor& factor) {
  if (mean.numel() == 0) return;
  const Index all_groups = mean.size(0) * groups, share = mean.size(1) / groups;
  for_floating(mean.dtype(), "group_norm", [&]<class T>(T) {
    launch("group_norm", group_norm_table_kernel<T>, team_shape<kWarp>(all_groups), all_groups, groups, share,
           static_cast<T>(pixels), static_cast<T>(epsilon), mean.data<T>(), squares.data<T>(),
           gamma.data<T>(), centre.data<T>(), rstd.data<T>(), factor.data<T>());
  });
}

void group_norm_backward_table(const Tensor& sums, const Tensor& dots, Index pixels, Index groups,
                               const Tensor& gamma, const Tensor& rstd, const Tensor& slope,
                               const Tensor& addend, const Tensor& dgamma, const Tensor& dbeta) {
  if (sums.numel() == 0) return;
  const char* operation = "group_norm backward";
  const Index images = sums.size(0), channels = sums.size(1), all_groups = images * groups;
  for_floating(sums.dtype(), operation, [&]<class T>(T) {
    launch(operation, group_norm_backward_table_kernel<T>, team_shape<kWarp>(all_groups), all_groups, groups,
           channels / groups, static_cast<T>(pixels), sums.data<T>(), dots.data<T>(), gamma.data<T>(),
           rstd.data<T>(), slope.data<T>(), addend.data<T>());
    add_column_sums<T, 2>(operation, images, channels,
                          GroupParameters<T>{channels, sums.data<T>(), dots.data<T>(), rstd.data<T>()},
                          {dgamma.data<T>(), dbeta.data<T>()});
  });
}

void batch_norm_totals(const Tensor& mean, const Tensor& squares, Index pixels, const Tensor& totals) {
  for_floating(mean.dtype(), "batch_norm", [&]<class T>(T) {
    total("batch_norm", mean.size(0),
          MomentTotals<T>{mean.size(1), static_cast<double>(pixels), mean.data<T>(), squares.data<T>()},
          totals);
  });
}

void batch_norm_table(const Tensor& totals, double count, double epsilon, const Tensor& gamma,
                      const Tensor& centre, const Tensor& rstd, const Tensor& factor,
                      const Tensor& running_mean, const Tensor& running_variance, double momentum) {
  for_floating(gamma.dtype(), "batch_norm", [&]<class T>(T) {
    for_items("batch_norm", gamma.numel(),
              BatchTable<T>{gamma.numel(), count, epsilon, momentum, totals.data<double>(), gamma.data<T>(),
                            centre.data<T>(), rstd.data<T>(), factor.data<T>(), running_mean.data<T>(),
                            running_variance.data<T>()});
  });
}

void batch_norm_running_table(const Tensor& running_mean, const Tensor& running_variance, double epsilon,
                              const Tensor& gamma, const Tensor& centre, const Tensor& rstd,
                              const Tensor& factor) {
  for_floating(gamma.dtype(), "batch_norm", [&]<class T>(T) {
    for_items("batch_norm", gamma.numel(),
              RunningTable<T>{static_cast<T>(epsilon), running_mean.data<T>(), running_variance.data<T>(),
                              gamma.data<T>(), centre.data<T>(), rstd.data<T>(), factor.data<T>()});
  });
}

void batch_norm_backward_totals(const Tensor& sums, const Tensor& dots, const Tensor& rstd,
                                const Tensor& totals, const Tensor& dgamma, const Tensor& dbeta) {
  const char* operation = "batch_norm backward";
  const Index channels = sums.size(1);
  for_floating(sums.dtype(), operation, [&]<class T>(T) {
    total(operation, sums.size(0), DotTotals<T>{channels, sums.data<T>(), dots.data<T>()}, totals);
    for_items(operation, channels,
              BatchParameters<T>{channels, totals.data<double>(), rstd.data<T>(), dgamma.data<T>(),
                                 dbeta.data<T>()});
  });
}

void batch_norm_backward_table(const Tensor& totals, double count, const Tensor& gamma, const Tensor& rstd,
                               const Tensor& slope, const Tensor& addend) {
  const char* operation = "batch_norm backward";
  for_floating(gamma.dtype(), operation, [&]<class T>(T) {
    for_items(operation, gamma.numel(),
              BatchBackwardTable<T>{gamma.numel(), count, totals.data<double>(), gamma.data<T>(),
                                    rstd.data<T>(), slope.data<T>(), addend.data<T>()});
  });
}

}  // namespace conclave::kernels::cuda

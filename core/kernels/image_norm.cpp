#include "core/kernels/image_norm.h"

#include <cmath>

namespace conclave::kernels {
namespace {

void expect_alike(const char* operation, const char* argument, const Tensor& table, const Tensor& like) {
  expect(operation, argument, table, like.shape(), like.dtype());
}

void expect_groups(const char* operation, Index channels, Index groups) {
  require(groups >= 1 && channels % groups == 0, "{}: {} channels do not divide into {} groups", operation,
          channels, groups);
}

}  // namespace

void group_norm_table(const Tensor& mean, const Tensor& squares, Index pixels, Index groups, double epsilon,
                      const Tensor& gamma, const Tensor& centre, const Tensor& rstd, const Tensor& factor) {
  constexpr const char* kOperation = "group_norm";
  expect_rank(kOperation, "mean", mean, 2);
  const Index images = mean.size(0), channels = mean.size(1), share = channels / std::max<Index>(groups, 1);
  expect_groups(kOperation, channels, groups);
  expect(kOperation, "gamma", gamma, {channels}, mean.dtype());
  for (const auto& [name, table] :
       {std::pair{"squares", &squares}, {"centre", &centre}, {"rstd", &rstd}, {"factor", &factor}})
    expect_alike(kOperation, name, *table, mean);
  if constexpr (kBuiltWithCuda)
    if (on_cuda(kOperation, mean, squares, gamma, centre, rstd, factor))
      return cuda::group_norm_table(mean, squares, pixels, groups, epsilon, gamma, centre, rstd, factor);
  for_floating(mean.dtype(), kOperation, [&]<class T>(T) {
    for (Index image = 0; image < images; ++image)
      for (Index first = 0; first < channels; first += share) {
        const T *m = mean.data<T>() + image * channels + first,
                *q = squares.data<T>() + image * channels + first;
        // Each channel's squares are about its own mean; this moves them to the group's (Chan, Golub, LeVeque
        // 1979).
        T middle = 0, sum = 0;
        for (Index c = 0; c < share; ++c) middle += m[c];
        middle /= static_cast<T>(share);
        for (Index c = 0; c < share; ++c)
          sum += q[c] + static_cast<T>(pixels) * (m[c] - middle) * (m[c] - middle);
        const T r = T(1) / std::sqrt(sum / static_cast<T>(std::max<Index>(pixels * share, 1)) +
                                     static_cast<T>(epsilon));
        for (Index c = 0; c < share; ++c) {
          const Index at = image * channels + first + c;
          centre.data<T>()[at] = middle;
          rstd.data<T>()[at] = r;
          factor.data<T>()[at] = r * gamma.data<T>()[first + c];
        }
      }
  });
}

void group_norm_backward_table(const Tensor& sums, const Tensor& dots, Index pixels, Index groups,
                               const Tensor& gamma, const Tensor& rstd, const Tensor& slope,
                               const Tensor& addend, const Tensor& dgamma, const Tensor& dbeta) {
  constexpr const char* kOperation = "group_norm backward";
  expect_rank(kOperation, "sums", sums, 2);
  const Index images = sums.size(0), channels = sums.size(1), share = channels / std::max<Index>(groups, 1);
  expect_groups(kOperation, channels, groups);
  for (const auto& [name, table] :
       {std::pair{"dots", &dots}, {"rstd", &rstd}, {"slope", &slope}, {"addend", &addend}})
    expect_alike(kOperation, name, *table, sums);
  for (const auto& [name, row] : {std::pair{"gamma", &gamma}, {"dgamma", &dgamma}, {"dbeta", &dbeta}})
    expect(kOperation, name, *row, {channels}, sums.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(kOperation, sums, dots, gamma, rstd, slope, addend, dgamma, dbeta))
      return cuda::group_norm_backward_table(sums, dots, pixels, groups, gamma, rstd, slope, addend, dgamma,
                                             dbeta);
  for_floating(sums.dtype(), kOperation, [&]<class T>(T) {
    const T* g = gamma.data<T>();
    for (Index image = 0; image < images; ++image)
      for (Index first = 0; first < channels; first += share) {
        const Index at = image * channels + first;
        const T *s = sums.data<T>() + at, *d = dots.data<T>() + at, r = rstd.data<T>()[at];
        T sum = 0, dot = 0;
        for (Index c = 0; c < share; ++c) {
          sum += g[first + c] * s[c];
          dot += g[first + c] * d[c] * r;
          dgamma.data<T>()[first + c] += d[c] * r;
          dbeta.data<T>()[first + c] += s[c];
        }
        const T count = static_cast<T>(std::max<Index>(pixels * share, 1));
        std::fill_n(slope.data<T>() + at, share, -r * r * dot / count);
        std::fill_n(addend.data<T>() + at, share, -r * sum / count);
      }
  });
}

void batch_norm_totals(const Tensor& mean, const Tensor& squares, Index pixels, const Tensor& totals) {
  constexpr const char* kOperation = "batch_norm";
  expect_rank(kOperation, "mean", mean, 2);
  const Index images = mean.size(0), channels = mean.size(1);
  expect_alike(kOperation, "squares", squares, mean);
  expect(kOperation, "totals", totals, {2, channels}, DType::f64);
  if constexpr (kBuiltWithCuda)
    if (on_cuda(kOperation, mean, squares, totals))
      return cuda::batch_norm_totals(mean, squares, pixels, totals);
  for_floating(mean.dtype(), kOperation, [&]<class T>(T) {
    auto *sum = totals.data<double>(), *square = sum + channels;
    std::fill_n(sum, 2 * channels, 0.0);
    for (Index image = 0; image < images; ++image)
      for (Index c = 0; c < channels; ++c) {
        const double m = mean.data<T>()[image * channels + c];
        sum[c] += static_cast<double>(pixels) * m;
        square[c] += squares.data<T>()[image * channels + c] + static_cast<double>(pixels) * m * m;
      }
  });
}

void batch_norm_table(const Tensor& totals, double count, double epsilon, const Tensor& gamma,
                      const Tensor& centre, const Tensor& rstd, const Tensor& factor,
                      const Tensor& running_mean, const Tensor& running_variance, double momentum) {
  constexpr const char* kOperation = "batch_norm";
  const Index channels = gamma.numel();
  expect(kOperation, "totals", totals, {2, channels}, DType::f64);
  for (const auto& [name, table] : {std::pair{"centre", &centre}, {"rstd", &rstd}, {"factor", &factor}})
    expect(kOperation, name, *table, {1, channels}, gamma.dtype());
  for (const auto& [name, row] :
       {std::pair{"running_mean", &running_mean}, {"running_variance", &running_variance}})
    expect(kOperation, name, *row, {channels}, gamma.dtype());
  require(count > 0, "batch_norm: there are no pixels");
  if constexpr (kBuiltWithCuda)
    if (on_cuda(kOperation, totals, gamma, centre, rstd, factor, running_mean, running_variance))
      return cuda::batch_norm_table(totals, count, epsilon, gamma, centre, rstd, factor, running_mean,
                                    running_variance, momentum);
  for_floating(gamma.dtype(), kOperation, [&]<class T>(T) {
    const auto *sum = totals.data<double>(), *square = sum + channels;
    for (Index c = 0; c < channels; ++c) {
      const double mean = sum[c] / count, variance = std::max(square[c] / count - mean * mean, 0.0);
      const auto r = static_cast<T>(1 / std::sqrt(variance + epsilon));
      centre.data<T>()[c] = static_cast<T>(mean);
      rstd.data<T>()[c] = r;
      factor.data<T>()[c] = r * gamma.data<T>()[c];
      const auto follow = [&](T& value, double now) {
        value = static_cast<T>((1 - momentum) * static_cast<double>(value) + momentum * now);
      };
      follow(running_mean.data<T>()[c], mean);
      follow(running_variance.data<T>()[c], variance * count / std::max(count - 1, 1.0));
    }
  });
}

void batch_norm_running_table(const Tensor& running_mean, const Tensor& running_variance, double epsilon,
                              const Tensor& gamma, const Tensor& centre, const Tensor& rstd,
                              const Tensor& factor) {
  constexpr const char* kOperation = "batch_norm";
  const Index channels = gamma.numel();
  for (const auto& [name, table] : {std::pair{"centre", &centre}, {"rstd", &rstd}, {"factor", &factor}})
    expect(kOperation, name, *table, {1, channels}, gamma.dtype());
  for (const auto& [name, row] :
       {std::pair{"running_mean", &running_mean}, {"running_variance", &running_variance}})
    expect(kOperation, name, *row, {channels}, gamma.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(kOperation, running_mean, running_variance, gamma, centre, rstd, factor))
      return cuda::batch_norm_running_table(running_mean, running_variance, epsilon, gamma, centre, rstd,
                                            factor);
  for_floating(gamma.dtype(), kOperation, [&]<class T>(T) {
    for (Index c = 0; c < channels; ++c) {
      const T r = T(1) / std::sqrt(running_variance.data<T>()[c] + static_cast<T>(epsilon));
      centre.data<T>()[c] = running_mean.data<T>()[c];
      rstd.data<T>()[c] = r;
      factor.data<T>()[c] = r * gamma.data<T>()[c];
    }
  });
}

void batch_norm_backward_totals(const Tensor& sums, const Tensor& dots, const Tensor& rstd,
                                const Tensor& totals, const Tensor& dgamma, const Tensor& dbeta) {
  constexpr const char* kOperation = "batch_norm backward";
  expect_rank(kOperation, "sums", sums, 2);
  const Index images = sums.size(0), channels = sums.size(1);
  expect_alike(kOperation, "dots", dots, sums);
  expect(kOperation, "rstd", rstd, {1, channels}, sums.dtype());
  expect(kOperation, "totals", totals, {2, channels}, DType::f64);
  for (const auto& [name, row] : {std::pair{"dgamma", &dgamma}, {"dbeta", &dbeta}})
    expect(kOperation, name, *row, {channels}, sums.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(kOperation, sums, dots, rstd, totals, dgamma, dbeta))
      return cuda::batch_norm_backward_totals(sums, dots, rstd, totals, dgamma, dbeta);
  for_floating(sums.dtype(), kOperation, [&]<class T>(T) {
    auto *sum = totals.data<double>(), *dot = sum + channels;
    std::fill_n(sum, 2 * channels, 0.0);
    for (Index image = 0; image < images; ++image)
      for (Index c = 0; c < channels; ++c) {
        sum[c] += sums.data<T>()[image * channels + c];
        dot[c] += dots.data<T>()[image * channels + c];
      }
    for (Index c = 0; c < channels; ++c) {
      dgamma.data<T>()[c] += static_cast<T>(dot[c]) * rstd.data<T>()[c];
      dbeta.data<T>()[c] += static_cast<T>(sum[c]);
    }
  });
}

void batch_norm_backward_table(const Tensor& totals, double count, const Tensor& gamma, const Tensor& rstd,
                               const Tensor& slope, const Tensor& addend) {
  constexpr const char* kOperation = "batch_norm backward";
  const Index channels = gamma.numel();
  expect(kOperation, "totals", totals, {2, channels}, DType::f64);
  for (const auto& [name, table] : {std::pair{"rstd", &rstd}, {"slope", &slope}, {"addend", &addend}})
    expect(kOperation, name, *table, {1, channels}, gamma.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(kOperation, totals, gamma, rstd, slope, addend))
      return cuda::batch_norm_backward_table(totals, count, gamma, rstd, slope, addend);
  for_floating(gamma.dtype(), kOperation, [&]<class T>(T) {
    const auto *sum = totals.data<double>(), *dot = sum + channels;
    for (Index c = 0; c < channels; ++c) {
      const double r = rstd.data<T>()[c], g = gamma.data<T>()[c];
      slope.data<T>()[c] = static_cast<T>(-g * r * r * r * dot[c] / count);
      addend.data<T>()[c] = static_cast<T>(-g * r * sum[c] / count);
    }
  });
}

}  // namespace conclave::kernels

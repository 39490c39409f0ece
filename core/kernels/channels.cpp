#include "core/kernels/channels.h"

#include "core/kernels/activated.h"
#include "core/kernels/activation.h"

namespace conclave::kernels {
namespace {

// Channels that are processed at a time; their sums are on the stack.
constexpr Index kChannels = 256;

ImageExtents check(const char* operation, const Tensor& x) {
  require(x.rank() >= 2, "{}: x {} must be [images, ..., channels]", operation, x.shape());
  expect(operation, "x", x, x.shape(), x.dtype());
  return ImageExtents(x);
}

void expect_table(const char* operation, const char* argument, const Tensor& table, const Tensor& x) {
  const Index channels = x.size(x.rank() - 1);
  expect(operation, argument, table, {table.rank() == 2 && table.size(0) == 1 ? 1 : x.size(0), channels},
         x.dtype());
}

// The row of a table for an image; null if there is no table.
template <class T>
const T* row_of(const Tensor& table, Index image) {
  if (!table.defined()) return nullptr;
  return table.data<T>() + (table.size(0) == 1 ? 0 : image * table.size(1));
}

}  // namespace

void channel_moments(const Tensor& x, const Tensor& mean, const Tensor& squares) {
  const auto [images, pixels, channels] = check("channel_moments", x);
  expect("channel_moments", "mean", mean, {images, channels}, x.dtype());
  expect("channel_moments", "squares", squares, {images, channels}, x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("channel_moments", x, mean, squares)) return cuda::channel_moments(x, mean, squares);
  for_floating(x.dtype(), "channel_moments", [&]<class T>(T) {
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index image = 0; image < images; ++image) {
      const T* in = x.data<T>() + image * pixels * channels;
      T *means = mean.data<T>() + image * channels, *sums = squares.data<T>() + image * channels;
      std::fill_n(means, channels, T(0));
      for (Index pixel = 0; pixel < pixels; ++pixel)
#pragma omp simd
        for (Index c = 0; c < channels; ++c) means[c] += in[pixel * channels + c];
      for (Index c = 0; c < channels; ++c) means[c] /= static_cast<T>(std::max<Index>(pixels, 1));
      std::fill_n(sums, channels, T(0));
      for (Index pixel = 0; pixel < pixels; ++pixel)
#pragma omp simd
        for (Index c = 0; c < channels; ++c) {
          const T distance = in[pixel * channels + c] - means[c];
          sums[c] += distance * distance;
        }
    }
  });
}

void scale_channels(const Tensor& x, const Tensor& centre, const Tensor& factor, const Tensor& addend,
                    Activation activation, const Tensor& y, const Tensor& derivative) {
  const auto [images, pixels, channels] = check("scale_channels", x);
  expect("scale_channels", "y", y, x.shape(), x.dtype());
  if (factor.defined()) expect_table("scale_channels", "factor", factor, x);
  if (centre.defined()) expect_table("scale_channels", "centre", centre, x);
  if (addend.defined()) expect_table("scale_channels", "addend", addend, x);
  if (derivative.defined()) expect("scale_channels", "derivative", derivative, x.shape(), x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("scale_channels", x, centre, factor, addend, y, derivative))
      return cuda::scale_channels(x, centre, factor, addend, activation, y, derivative);
  // Pixels per task: they stay in the first-level cache until the activation has read them.
  const Index step = std::clamp<Index>(4096 / std::max<Index>(channels, 1), 1, std::max<Index>(pixels, 1));
  for_floating(x.dtype(), "scale_channels", [&]<class T>(T) {
#pragma omp parallel for collapse(2) schedule(static) if (x.numel() > kParallelElements)
    for (Index image = 0; image < images; ++image)
      for (Index first = 0; first < pixels; first += step) {
        const T *m = row_of<T>(centre, image), *f = row_of<T>(factor, image), *a = row_of<T>(addend, image);
        const Index begin = (image * pixels + first) * channels, rows = std::min(step, pixels - first);
        const T* in = x.data<T>() + begin;
        T* out = y.data<T>() + begin;
        // Which tables exist is tested once, outside the loop: even masked loads from a null table are slow.
        const auto each_row = [&](auto value) {
          for (Index row = 0; row < rows; ++row, in += channels, out += channels)
#pragma omp simd
            for (Index c = 0; c < channels; ++c) out[c] = value(in, c);
        };
        if (m && f && a)
          each_row([=](const T* from, Index c) { return (from[c] - m[c]) * f[c] + a[c]; });
        else if (f && !m && !a)
          each_row([=](const T* from, Index c) { return from[c] * f[c]; });
        else
          each_row([=](const T* from, Index c) {
            return (from[c] - (m ? m[c] : T(0))) * (f ? f[c] : T(1)) + (a ? a[c] : T(0));
          });
        if (activation != Activation::none || derivative.defined())
          activate(y.data<T>() + begin, rows * channels, activation,
                   derivative.defined() ? derivative.data<T>() + begin : nullptr);
      }
  });
}

void channel_dots(const Tensor& dz, const Tensor& x, const Tensor& centre, const Tensor& sums,
                  const Tensor& dots, const ScaledBy& by) {
  const auto [images, pixels, channels] = check("channel_dots", x);
  expect("channel_dots", "dz", dz, x.shape(), x.dtype());
  if (centre.defined()) expect_table("channel_dots", "centre", centre, x);
  if (sums.defined()) expect("channel_dots", "sums", sums, {images, channels}, x.dtype());
  expect("channel_dots", "dots", dots, {images, channels}, x.dtype());
  if (by.activation != Activation::none) {
    expect_table("channel_dots", "factor", by.factor, x);
    expect_table("channel_dots", "addend", by.addend, x);
  }
  if constexpr (kBuiltWithCuda)
    if (on_cuda("channel_dots", dz, x, centre, sums, dots, by.factor, by.addend))
      return cuda::channel_dots(dz, x, centre, sums, dots, by);
  for_floating(x.dtype(), "channel_dots", [&]<class T>(T) {
    for_activation(by.activation, [&]<Activation kActivation>() {
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
      for (Index image = 0; image < images; ++image)
        for (Index first = 0; first < channels; first += kChannels) {
          const Index count = std::min(kChannels, channels - first);
          const T *m = row_of<T>(centre, image), *f = row_of<T>(by.factor, image),
                  *a = row_of<T>(by.addend, image);
          T sum[kChannels] = {}, dot[kChannels] = {}, middle[kChannels] = {};
          if (m) std::copy_n(m + first, count, middle);
          T* up = dz.data<T>() + image * pixels * channels + first;
          const T* in = x.data<T>() + image * pixels * channels + first;
          for (Index pixel = 0; pixel < pixels; ++pixel, up += channels, in += channels) {
#pragma omp simd
            for (Index c = 0; c < count; ++c) {
              const T distance = in[c] - middle[c];
              if constexpr (kActivation != Activation::none) {
                T derivative;
                activated<kActivation>(distance * f[first + c] + a[first + c], derivative);
                up[c] *= derivative;
              }
              sum[c] += up[c];
              dot[c] += up[c] * distance;
            }
          }
          if (sums.defined()) std::copy_n(sum, count, sums.data<T>() + image * channels + first);
          std::copy_n(dot, count, dots.data<T>() + image * channels + first);
        }
    });
  });
}

void scale_channels_backward(const Tensor& dz, const Tensor& x, const Tensor& centre, const Tensor& factor,
                             const Tensor& slope, const Tensor& addend, const Tensor& dx, Write mode) {
  const auto [images, pixels, channels] = check("scale_channels backward", dz);
  expect("scale_channels backward", "dx", dx, dz.shape(), dz.dtype());
  expect_table("scale_channels backward", "factor", factor, dz);
  if (slope.defined()) {
    expect("scale_channels backward", "x", x, dz.shape(), dz.dtype());
    for (const auto& [name, table] : {std::pair{"centre", &centre}, {"slope", &slope}, {"addend", &addend}})
      expect_table("scale_channels backward", name, *table, dz);
  }
  if constexpr (kBuiltWithCuda)
    if (on_cuda("scale_channels backward", dz, x, centre, factor, slope, addend, dx))
      return cuda::scale_channels_backward(dz, x, centre, factor, slope, addend, dx, mode);
  for_floating(dz.dtype(), "scale_channels backward", [&]<class T>(T) {
    const T keep = mode == Write::accumulate ? T(1) : T(0);
#pragma omp parallel for collapse(2) schedule(static) if (dz.numel() > kParallelElements)
    for (Index image = 0; image < images; ++image)
      for (Index pixel = 0; pixel < pixels; ++pixel) {
        const Index at = (image * pixels + pixel) * channels;
        const T *up = dz.data<T>() + at, *f = row_of<T>(factor, image);
        T* out = dx.data<T>() + at;
        const auto put = [&](auto value) {
          if (keep == T(0)) {
#pragma omp simd
            for (Index c = 0; c < channels; ++c) out[c] = value(c);
          } else {
#pragma omp simd
            for (Index c = 0; c < channels; ++c) out[c] += value(c);
          }
        };
        if (!slope.defined()) {
          put([&](Index c) { return up[c] * f[c]; });
          continue;
        }
        const T *in = x.data<T>() + at, *m = row_of<T>(centre, image), *s = row_of<T>(slope, image),
                *a = row_of<T>(addend, image);
        put([&](Index c) { return up[c] * f[c] + (in[c] - m[c]) * s[c] + a[c]; });
      }
  });
}

}  // namespace conclave::kernels

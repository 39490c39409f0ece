#include "core/kernels/convolution.h"

namespace conclave::kernels {
namespace {

// Bytes of rows at a time: with the output, they fit one or two second-level caches.
constexpr Index kBytes = 1 << 20;

Index row_of(const Tensor& x, const Window& window) { return window.size * window.size * x.size(3); }

// Images at a time.
Index images_at_once(const Tensor& x, const Window& window) {
  const Index rows = window.positions(x.size(1)) * window.positions(x.size(2));
  const Index bytes = rows * row_of(x, window) * static_cast<Index>(size_of(x.dtype()));
  return std::clamp<Index>(kBytes / std::max<Index>(bytes, 1), 1, std::max<Index>(x.size(0), 1));
}

void check(const char* operation, const Tensor& x, const Tensor& weight, const Window& window,
           const Tensor& y, const Tensor& scratch) {
  expect_rank(operation, "weight", weight, 4);
  expect(operation, "y", y, window_shape(operation, x, window, weight.size(0)), x.dtype());
  expect(operation, "x", x, x.shape(), x.dtype());
  expect(operation, "weight", weight, {weight.size(0), window.size, window.size, x.size(3)}, x.dtype());
  expect(operation, "scratch", scratch, {convolution_scratch(x, window)}, x.dtype());
}

// Pixels, and parameters, as the matrices that a linear layer takes.
Tensor as_rows(const Tensor& images) {
  return images.reshape({images.size(0) * images.size(1) * images.size(2), images.size(3)});
}
Tensor as_weight(const Tensor& weight) {
  return weight.reshape({1, weight.size(0), weight.size(1) * weight.size(2) * weight.size(3)});
}
Tensor as_bias(const Tensor& bias) { return bias.defined() ? bias.reshape({1, bias.size(0)}) : bias; }

// Calls each(first image, last image, their rows in scratch memory) for some images at a time.
template <class Each>
void for_images(const Tensor& x, const Window& window, const Tensor& scratch, Each each) {
  const Index step = images_at_once(x, window), row = row_of(x, window);
  const Index positions = window.positions(x.size(1)) * window.positions(x.size(2));
  for (Index first = 0; first < x.size(0); first += step) {
    const Index last = std::min(first + step, x.size(0)), rows = (last - first) * positions;
    each(first, last, scratch.rows(0, rows * row).reshape({rows, row}));
  }
}

// rows [images x positions, size x size x channels] = the pixels of x under the window; zeros outside.
template <class T>
void unfold(const Tensor& x, const Window& window, const Tensor& rows) {
  const Index height = x.size(1), width = x.size(2), channels = x.size(3), row = rows.size(1);
  const Index out_height = window.positions(height), out_width = window.positions(width);
  const T* px = x.data<T>();
  T* to = rows.data<T>();
#pragma omp parallel for collapse(2) schedule(static) if (rows.numel() > kParallelElements)
  for (Index image = 0; image < x.size(0); ++image)
    for (Index i = 0; i < out_height; ++i)
      for (Index j = 0; j < out_width; ++j) {
        T* out = to + ((image * out_height + i) * out_width + j) * row;
        // For each row of the window, the columns within the image are contiguous in memory.
        const Index from = j * window.stride - window.padding;
        const Index first = std::clamp<Index>(-from, 0, window.size),
                    last = std::clamp<Index>(width - from, first, window.size);
        for (Index a = 0; a < window.size; ++a, out += window.size * channels) {
          const Index y = i * window.stride + a - window.padding;
          if (y < 0 || y >= height) {
            std::fill_n(out, window.size * channels, T(0));
            continue;
          }
          std::fill_n(out, first * channels, T(0));
          std::copy_n(px + ((image * height + y) * width + from + first) * channels,
                      (last - first) * channels, out + first * channels);
          std::fill_n(out + last * channels, (window.size - last) * channels, T(0));
        }
      }
}

// x (=, +=) for each pixel the sum of its copies in `rows`: unfold's transpose.
template <class T>
void fold(const Tensor& rows, const Window& window, const Tensor& x, Write mode) {
  const Index height = x.size(1), width = x.size(2), channels = x.size(3), row = rows.size(1);
  const Index out_height = window.positions(height), out_width = window.positions(width);
  const T* from = rows.data<T>();
  T* px = x.data<T>();
  // The positions [first, last) whose window contains a pixel.
  struct Positions {
    Index first, last;
  };
  const auto positions = [&](Index pixel, Index count) {
    const Index at = pixel + window.padding;
    const Index first = at < window.size ? 0 : (at - window.size) / window.stride + 1;
    return Positions{first, std::min(at / window.stride + 1, count)};
  };
#pragma omp parallel for collapse(2) schedule(static) if (rows.numel() > kParallelElements)
  for (Index image = 0; image < x.size(0); ++image)
    for (Index y = 0; y < height; ++y)
      for (Index z = 0; z < width; ++z) {
        T* to = px + ((image * height + y) * width + z) * channels;
        if (mode == Write::assign) std::fill_n(to, channels, T(0));
        const auto [top, bottom] = positions(y, out_height);
        const auto [left, right] = positions(z, out_width);
        for (Index i = top; i < bottom; ++i)
          for (Index j = left; j < right; ++j) {
            const Index a = y + window.padding - i * window.stride,
                        b = z + window.padding - j * window.stride;
            const T* part =
                from + ((image * out_height + i) * out_width + j) * row + (a * window.size + b) * channels;
#pragma omp simd
            for (Index c = 0; c < channels; ++c) to[c] += part[c];
          }
      }
}

}  // namespace

Index convolution_scratch(const Tensor& x, const Window& window) {
  if (x.device() == Device::cuda) return 0;
  return images_at_once(x, window) * window.positions(x.size(1)) * window.positions(x.size(2)) *
         row_of(x, window);
}

void convolution(const Tensor& x, const Tensor& weight, const Tensor& bias, const Window& window,
                 Activation activation, const Tensor& y, const Tensor& derivative, const Tensor& scratch,
                 RowBits bits, const Tensor& panels) {
  check("convolution", x, weight, window, y, scratch);
  if (bias.defined()) expect("convolution", "bias", bias, {weight.size(0)}, x.dtype());
  if (derivative.defined()) expect("convolution", "derivative", derivative, y.shape(), x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("convolution", x, weight, bias, y, derivative))
      return cuda::convolution(x, weight, bias, window, activation, y, derivative, bits);
  for_floating(x.dtype(), "convolution", [&]<class T>(T) {
    for_images(x, window, scratch, [&](Index first, Index last, const Tensor& rows) {
      unfold<T>(x.rows(first, last), window, rows);
      const Index offsets[] = {0, rows.size(0)};
      grouped_linear(rows, offsets, as_weight(weight), as_bias(bias), activation,
                     as_rows(y.rows(first, last)),
                     derivative.defined() ? as_rows(derivative.rows(first, last)) : derivative, bits, panels);
    });
  });
}

void convolution_backward_input(const Tensor& dz, const Tensor& weight, const Window& window,
                                const Tensor& dx, Write write, const Tensor& scratch) {
  check("convolution backward", dx, weight, window, dz, scratch);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("convolution backward", dz, weight, dx))
      return cuda::convolution_backward_input(dz, weight, window, dx, write);
  for_floating(dx.dtype(), "convolution backward", [&]<class T>(T) {
    for_images(dx, window, scratch, [&](Index first, Index last, const Tensor& rows) {
      const Index offsets[] = {0, rows.size(0)};
      grouped_linear_backward_input(as_rows(dz.rows(first, last)), offsets, as_weight(weight), rows,
                                    Write::assign);
      fold<T>(rows, window, dx.rows(first, last), write);
    });
  });
}

void convolution_backward_parameters(const Tensor& dz, const Tensor& x, const Window& window,
                                     const Tensor& dweight, const Tensor& dbias, const Tensor& scratch) {
  check("convolution backward", x, dweight, window, dz, scratch);
  if (dbias.defined()) expect("convolution backward", "dbias", dbias, {dweight.size(0)}, x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("convolution backward", dz, x, dweight, dbias))
      return cuda::convolution_backward_parameters(dz, x, window, dweight, dbias);
  for_floating(x.dtype(), "convolution backward", [&]<class T>(T) {
    for_images(x, window, scratch, [&](Index first, Index last, const Tensor& rows) {
      unfold<T>(x.rows(first, last), window, rows);
      const Index offsets[] = {0, rows.size(0)};
      grouped_linear_backward_parameters(as_rows(dz.rows(first, last)), rows, offsets, as_weight(dweight),
                                         as_bias(dbias));
    });
  });
}

}  // namespace conclave::kernels

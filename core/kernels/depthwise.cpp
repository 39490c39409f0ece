#include "core/kernels/depthwise.h"

#include "core/kernels/activation.h"
#include "core/kernels/channels.h"
#include "core/kernels/depthwise_lines.h"

namespace conclave::kernels {

template void depthwise_lines::run<float, 32>(const Line<float>&);
template void depthwise_lines::run<double, 32>(const Line<double>&);
template void depthwise_lines::add_products<float, 32>(const ImageProducts<float>&, float*);
template void depthwise_lines::add_products<double, 32>(const ImageProducts<double>&, double*);

namespace {

using depthwise_lines::ceil_divide, depthwise_lines::ImageProducts, depthwise_lines::Inside,
    depthwise_lines::Line, depthwise_lines::run_widest;

template <class T>
void add_image(const ImageProducts<T>& image, T* dweight) {
#ifdef CONCLAVE_WIDE_VECTORS
  if (has_wide_vectors()) return depthwise_lines::add_products<T, 64>(image, dweight);
#endif
  depthwise_lines::add_products<T, 32>(image, dweight);
}

void check(const char* operation, const Tensor& x, const Tensor& weight, const Window& window,
           const Tensor& y) {
  const Index channels = x.rank() == 4 ? x.size(3) : 0;
  expect(operation, "y", y, window_shape(operation, x, window, channels), x.dtype());
  expect(operation, "x", x, x.shape(), x.dtype());
  expect(operation, "weight", weight, {window.size, window.size, channels}, x.dtype());
}

}  // namespace

void depthwise(const Tensor& x, const Tensor& weight, const Window& window, const Tensor& y,
               const Tensor& bias, Activation activation) {
  check("depthwise", x, weight, window, y);
  if (bias.defined()) expect("depthwise", "bias", bias, {y.size(3)}, y.dtype());
  const bool ends = bias.defined() || activation != Activation::none;
  if constexpr (kBuiltWithCuda)
    if (on_cuda("depthwise", x, weight, y, bias)) {
      cuda::depthwise(x, weight, window, y);
      const Tensor addend = bias.defined() ? bias.reshape({1, y.size(3)}) : bias;
      if (ends) cuda::scale_channels(y, Tensor(), Tensor(), addend, activation, y, Tensor());
      return;
    }
  const Index images = x.size(0), height = x.size(1), width = x.size(2), channels = x.size(3);
  const Index out_height = y.size(1), out_width = y.size(2);
  for_floating(x.dtype(), "depthwise", [&]<class T>(T) {
    const T *px = x.data<T>(), *pw = weight.data<T>(), *pb = bias.defined() ? bias.data<T>() : nullptr;
    T* py = y.data<T>();
#pragma omp parallel for collapse(2) schedule(static) if (y.numel() * window.size > kParallelElements)
    for (Index image = 0; image < images; ++image)
      for (Index row = 0; row < out_height; ++row) {
        T* const to = py + (image * out_height + row) * out_width * channels;
        run_widest(depthwise_lines::forward_line(px + image * height * width * channels, height, width,
                                                 channels, window, pw, row, to));
        if (!ends) continue;
        for (Index pixel = 0; pb && pixel < out_width; ++pixel)
#pragma omp simd
          for (Index c = 0; c < channels; ++c) to[pixel * channels + c] += pb[c];
        activate(to, out_width * channels, activation, nullptr);
      }
  });
}

void depthwise_backward_input(const Tensor& dy, const Tensor& weight, const Window& window, const Tensor& dx,
                              Write mode) {
  check("depthwise backward", dx, weight, window, dy);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("depthwise backward", dy, weight, dx))
      return cuda::depthwise_backward_input(dy, weight, window, dx, mode);
  const Index images = dx.size(0), height = dx.size(1), width = dx.size(2), channels = dx.size(3);
  const Index out_height = dy.size(1), out_width = dy.size(2), stride = window.stride;
  for_floating(dx.dtype(), "depthwise backward", [&]<class T>(T) {
    const T *pdy = dy.data<T>(), *pw = weight.data<T>();
    T* pdx = dx.data<T>();
#pragma omp parallel for collapse(2) schedule(static) if (dx.numel() * window.size > kParallelElements)
    for (Index image = 0; image < images; ++image)
      for (Index row = 0; row < height; ++row) {
        // Row a of the window saw this row from output row (row + padding - a) / stride, if that is a whole
        // number.
        const Index a = (row + window.padding) % stride, out_row = (row + window.padding) / stride;
        const Index taps = a < window.size ? ceil_divide(window.size - a, stride) : 0;
        const auto [first, last] = Inside(out_height - 1 - out_row, 1, out_height, taps);
        for (Index column = 0; column < std::min(stride, width); ++column) {
          const Index b = (column + window.padding) % stride;
          const Index columns = b < window.size ? ceil_divide(window.size - b, stride) : 0;
          run_widest(Line<T>{
              .source = pdy + (image * out_height + out_row - first) * out_width * channels,
              .source_row = -out_width * channels,
              .length = out_width,
              .start = (column + window.padding) / stride - (columns - 1),
              .step = 1,
              .weight = pw + ((a + first * stride) * window.size + b + (columns - 1) * stride) * channels,
              .weight_row = stride * window.size * channels,
              .weight_column = -stride * channels,
              .rows = last - first,
              .columns = columns,
              .to = pdx + ((image * height + row) * width + column) * channels,
              .to_step = stride * channels,
              .count = ceil_divide(width - column, stride),
              .channels = channels,
              .mode = mode,
              .next = pdy + (image * out_height + out_row + 1) * out_width * channels});
        }
      }
  });
}

void depthwise_backward_weight(const Tensor& dy, const Tensor& x, const Window& window, const Tensor& dweight,
                               const Tensor& scratch) {
  check("depthwise backward", x, dweight, window, dy);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("depthwise backward", dy, x, dweight))
      return cuda::depthwise_backward_weight(dy, x, window, dweight);
  const Index images = x.size(0), channels = x.size(3), parts = depthwise_parts(images);
  const Index elements = dweight.numel();
  expect("depthwise backward", "scratch", scratch, {parts, window.size, window.size, channels}, x.dtype());
  for_floating(x.dtype(), "depthwise backward", [&]<class T>(T) {
    const T *pdy = dy.data<T>(), *px = x.data<T>();
    T *sums = scratch.data<T>(), *pdw = dweight.data<T>();
    const Index x_image = x.numel() / std::max<Index>(images, 1),
                dy_image = dy.numel() / std::max<Index>(images, 1);
#pragma omp parallel if (dy.numel() * window.size > kParallelElements)
    {
#pragma omp for schedule(static)
      for (Index part = 0; part < parts; ++part) {
        T* of_part = sums + part * elements;
        std::fill_n(of_part, elements, T(0));
        for (Index image = images * part / parts; image < images * (part + 1) / parts; ++image) {
          add_image<T>({pdy + image * dy_image, px + image * x_image, x.size(1), x.size(2), dy.size(1),
                        dy.size(2), channels, window},
                       of_part);
        }
      }
#pragma omp for simd schedule(static)
      for (Index i = 0; i < elements; ++i)
        for (Index part = 0; part < parts; ++part) pdw[i] += sums[part * elements + i];
    }
  });
}

}  // namespace conclave::kernels

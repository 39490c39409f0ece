#include "core/kernels/depthwise.h"

#include "core/kernels/tile.h"

namespace conclave::kernels {
namespace {

Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }

/// The numbers i of [0, count) for which from + i step is in [0, length); step > 0.
struct Inside {
  Index first, last;
  Inside(Index from, Index step, Index length, Index count)
      : first(std::clamp<Index>(from < 0 ? ceil_divide(-from, step) : 0, 0, count)),
        last(std::clamp<Index>(length > from ? ceil_divide(length - from, step) : 0, first, count)) {}
};

// A row of results, pixel i of which is the sum over a in [0, rows) and b in [0, columns) of source[a
// source_row + (start + i step + b) channels + c] weight[a weight_row + b weight_column + c], where columns
// outside of the source count as zeros. The gradient of the input is such a sum as well, of the output's
// gradients, with the window the other way round; one for each residue that its columns have by the stride.
template <class T>
struct Line {
  const T* source;
  Index source_row, length;  // of the source's rows, in pixels
  Index start, step;
  const T* weight;
  Index weight_row, weight_column;
  Index rows, columns;
  T* to;
  Index to_step, count;  // pixels
  Index channels;
  Write mode;
};

// A vector of channels of P pixels of a line, whose window has K columns and goes on by S. Every pixel of the
// source is read once for all the sums that it is part of. Ends: some of them may be outside.
template <class T, int K, int S, int P, bool kEnds>
[[gnu::always_inline]] inline void sum_taps(const Line<T>& line, Index pixel, Index channel) {
  Vector<T> sums[P] = {};
  const Index at = line.start + pixel * S;
  const T *source = line.source + at * line.channels + channel, *weight = line.weight + channel;
  for (Index a = 0; a < line.rows; ++a, source += line.source_row, weight += line.weight_row) {
    Vector<T> w[K];
#pragma GCC unroll 8
    for (int b = 0; b < K; ++b) w[b] = load(weight + b * line.weight_column);
#pragma GCC unroll 32
    for (int q = 0; q < (P - 1) * S + K; ++q) {
      if (kEnds && (at + q < 0 || at + q >= line.length)) continue;
      const Vector<T> x = load(source + q * line.channels);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p)
        if (q - p * S >= 0 && q - p * S < K) sums[p] += w[q - p * S] * x;
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    T* to = line.to + (pixel + p) * line.to_step + channel;
    store(to, line.mode == Write::assign ? sums[p] : load(to) + sums[p]);
  }
}

// One channel of one pixel, for any window.
template <class T>
void sum_taps(const Line<T>& line, Index pixel, Index channel) {
  const Index at = line.start + pixel * line.step;
  const auto [first, last] = Inside(at, 1, line.length, line.columns);
  T sum = 0;
  for (Index a = 0; a < line.rows; ++a)
    for (Index b = first; b < last; ++b)
      sum += line.source[a * line.source_row + (at + b) * line.channels + channel] *
             line.weight[a * line.weight_row + b * line.weight_column + channel];
  write(line.to[pixel * line.to_step + channel], sum, line.mode);
}

template <class T, int K, int S, int P>
void pixels(const Line<T>& line, Index pixel) {
  const Index whole = line.channels / kLanes<T> * kLanes<T>;
  const Index at = line.start + pixel * S;
  if (at < 0 || at + (P - 1) * S + K > line.length) {
    for (Index channel = 0; channel < whole; channel += kLanes<T>)
      sum_taps<T, K, S, P, true>(line, pixel, channel);
  } else {
    for (Index channel = 0; channel < whole; channel += kLanes<T>)
      sum_taps<T, K, S, P, false>(line, pixel, channel);
  }
  for (Index channel = whole; channel < line.channels; ++channel)
    for (int p = 0; p < P; ++p) sum_taps(line, pixel + p, channel);
}

template <class T, int K, int S>
void run(const Line<T>& line) {
  // Seven pixels' sums and five weights fit the sixteen registers, and sides of images are often multiples
  // of seven.
  Index pixel = 0;
  for (; pixel + 7 <= line.count; pixel += 7) pixels<T, K, S, 7>(line, pixel);
  for (; pixel + 3 <= line.count; pixel += 3) pixels<T, K, S, 3>(line, pixel);
  for (; pixel < line.count; ++pixel) pixels<T, K, S, 1>(line, pixel);
}

template <class T>
void run(const Line<T>& line) {
  const auto with_step = [&]<int K>() {
    if (line.step == 1) return run<T, K, 1>(line), true;
    if (line.step == 2) return run<T, K, 2>(line), true;
    return false;
  };
  const bool done = line.columns == 1   ? with_step.template operator()<1>()
                    : line.columns == 2 ? with_step.template operator()<2>()
                    : line.columns == 3 ? with_step.template operator()<3>()
                    : line.columns == 5 ? with_step.template operator()<5>()
                    : line.columns == 7 ? with_step.template operator()<7>()
                                        : false;
  if (done) return;
  for (Index pixel = 0; pixel < line.count; ++pixel)
    for (Index channel = 0; channel < line.channels; ++channel) sum_taps(line, pixel, channel);
}

void check(const char* operation, const Tensor& x, const Tensor& weight, const Window& window,
           const Tensor& y) {
  const Index channels = x.rank() == 4 ? x.size(3) : 0;
  expect(operation, "y", y, window_shape(operation, x, window, channels), x.dtype());
  expect(operation, "x", x, x.shape(), x.dtype());
  expect(operation, "weight", weight, {window.size, window.size, channels}, x.dtype());
}

}  // namespace

void depthwise(const Tensor& x, const Tensor& weight, const Window& window, const Tensor& y) {
  check("depthwise", x, weight, window, y);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("depthwise", x, weight, y)) return cuda::depthwise(x, weight, window, y);
  const Index images = x.size(0), height = x.size(1), width = x.size(2), channels = x.size(3);
  const Index out_height = y.size(1), out_width = y.size(2);
  for_floating(x.dtype(), "depthwise", [&]<class T>(T) {
    const T *px = x.data<T>(), *pw = weight.data<T>();
    T* py = y.data<T>();
#pragma omp parallel for collapse(2) schedule(static) if (y.numel() * window.size > kParallelElements)
    for (Index image = 0; image < images; ++image)
      for (Index row = 0; row < out_height; ++row) {
        const Index from = row * window.stride - window.padding;
        const auto [first, last] = Inside(from, 1, height, window.size);
        run<T>({.source = px + (image * height + from + first) * width * channels,
                .source_row = width * channels,
                .length = width,
                .start = -window.padding,
                .step = window.stride,
                .weight = pw + first * window.size * channels,
                .weight_row = window.size * channels,
                .weight_column = channels,
                .rows = last - first,
                .columns = window.size,
                .to = py + (image * out_height + row) * out_width * channels,
                .to_step = channels,
                .count = out_width,
                .channels = channels,
                .mode = Write::assign});
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
        // Row a of the window saw this row from output row (row + padding - a) / stride, where that is whole.
        const Index a = (row + window.padding) % stride, out_row = (row + window.padding) / stride;
        const Index taps = a < window.size ? ceil_divide(window.size - a, stride) : 0;
        const auto [first, last] = Inside(out_height - 1 - out_row, 1, out_height, taps);
        for (Index column = 0; column < std::min(stride, width); ++column) {
          const Index b = (column + window.padding) % stride;
          const Index columns = b < window.size ? ceil_divide(window.size - b, stride) : 0;
          run<T>({.source = pdy + (image * out_height + out_row - first) * out_width * channels,
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
                  .mode = mode});
        }
      }
  });
}

namespace {

// One row of the output's gradient and the row of x that row `a` of the window saw.
template <class T>
struct RowPair {
  const T *dy, *x;
  Index width, out_width, channels;
  Index step, from;  // pixel i saw x's pixels i step + from + b
};

// sums [B columns of the window, V vectors] += dy x over the pixels of a row.
template <class T, int B, int V>
[[gnu::always_inline]] inline void add_products(const RowPair<T>& pair, Index channel,
                                                Vector<T> (&sums)[B][V]) {
  const auto add = [&](Index pixel, auto counts) {
    const T* dy = pair.dy + pixel * pair.channels + channel;
    const T* x = pair.x + (pixel * pair.step + pair.from) * pair.channels + channel;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vector<T> d = load(dy + v * kLanes<T>);
#pragma GCC unroll 5
      for (int b = 0; b < B; ++b)
        if (counts(pixel * pair.step + pair.from + b))
          sums[b][v] += d * load(x + b * pair.channels + v * kLanes<T>);
    }
  };
  const auto some = [&](Index at) { return at >= 0 && at < pair.width; };
  // Between the ends, a pixel's whole window lies within the row.
  const Index whole = Inside(pair.from, pair.step, pair.width, pair.out_width).first;
  const Index end = std::max(whole, Inside(pair.from + B - 1, pair.step, pair.width, pair.out_width).last);
  Index pixel = 0;
  for (; pixel < whole; ++pixel) add(pixel, some);
  for (; pixel < end; ++pixel) add(pixel, [](Index) { return true; });
  for (; pixel < pair.out_width; ++pixel) add(pixel, some);
}

// dweight [B columns of a row of the window, channels] += what an image adds.
template <class T>
struct ImageProducts {
  const T *dy, *x;
  Index height, width, out_height, out_width, channels;
  Window window;

  template <int B>
  void add(Index a, Index b, T* dweight) const {
    constexpr int kVectors = 12 / B > 4 ? 4 : 12 / B;
    Index channel = 0;
    for (; channel + kVectors * kLanes<T> <= channels; channel += kVectors * kLanes<T>)
      vectors<B, kVectors>(a, b, channel, dweight);
    for (; channel + kLanes<T> <= channels; channel += kLanes<T>) vectors<B, 1>(a, b, channel, dweight);
    for (; channel < channels; ++channel)
      for (int i = 0; i < B; ++i) {
        T sum = 0;
        for_rows(a, b + i, [&](const RowPair<T>& pair) {
          const auto [first, last] = Inside(pair.from, pair.step, pair.width, pair.out_width);
          for (Index pixel = first; pixel < last; ++pixel)
            sum += pair.dy[pixel * channels + channel] *
                   pair.x[(pixel * pair.step + pair.from) * channels + channel];
        });
        dweight[i * channels + channel] += sum;
      }
  }

 private:
  template <int B, int V>
  void vectors(Index a, Index b, Index channel, T* dweight) const {
    Vector<T> sums[B][V] = {};
    for_rows(a, b, [&](const RowPair<T>& pair) { add_products<T, B, V>(pair, channel, sums); });
#pragma GCC unroll 5
    for (int i = 0; i < B; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        T* to = dweight + i * channels + channel + v * kLanes<T>;
        store(to, load(to) + sums[i][v]);
      }
  }

  template <class Each>
  [[gnu::always_inline]] void for_rows(Index a, Index b, Each each) const {
    const Index from = a - window.padding;
    const auto [first, last] = Inside(from, window.stride, height, out_height);
    for (Index row = first; row < last; ++row)
      each(RowPair<T>{dy + row * out_width * channels, x + (row * window.stride + from) * width * channels,
                      width, out_width, channels, window.stride, b - window.padding});
  }
};

}  // namespace

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
          const ImageProducts<T> products{pdy + image * dy_image,
                                          px + image * x_image,
                                          x.size(1),
                                          x.size(2),
                                          dy.size(1),
                                          dy.size(2),
                                          channels,
                                          window};
          for (Index a = 0; a < window.size; ++a)
            for (Index b = 0; b < window.size;) {
              T* to = of_part + (a * window.size + b) * channels;
              const Index left = window.size - b;
              if (left >= 5) {
                products.template add<5>(a, b, to);
                b += 5;
              } else if (left >= 3) {
                products.template add<3>(a, b, to);
                b += 3;
              } else {
                products.template add<1>(a, b++, to);
              }
            }
        }
      }
#pragma omp for simd schedule(static)
      for (Index i = 0; i < elements; ++i)
        for (Index part = 0; part < parts; ++part) pdw[i] += sums[part * elements + i];
    }
  });
}

}  // namespace conclave::kernels

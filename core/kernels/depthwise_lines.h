// Rows of depthwise convolutions, in vectors of 32 bytes or, on processors with AVX-512, of 64 bytes. A
// channel's sums are the same either way.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "core/kernels/kernel.h"
#include "core/kernels/tile.h"
#include "core/kernels/window.h"

namespace conclave::kernels::depthwise_lines {

inline Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }

/// The range [first, last) of those i in [0, count) for which from + i step lies in [0, length); step > 0.
struct Inside {
  Index first, last;
  Inside(Index from, Index step, Index length, Index count)
      : first(std::clamp<Index>(from < 0 ? ceil_divide(-from, step) : 0, 0, count)),
        last(std::clamp<Index>(length > from ? ceil_divide(length - from, step) : 0, first, count)) {}
};

// A row of results. Pixel i is the sum over a in [0, rows) and b in [0, columns) of source[a source_row +
// (start + i step + b) channels + c] weight[a weight_row + b weight_column + c], where columns outside the
// source count as zeros. The gradient of the input is such a sum as well: its source is the output's
// gradient, its window is reversed, and there is one Line for each residue of the input's columns modulo the
// stride. Integers in the source stand for their distances from `zero`; sums of products of integers are
// exact in f32 up to 2^24.
template <class T, class Source = T>
struct Line {
  const Source* source;
  Index source_row, length;  // elements between the source's rows; pixels of each
  Index start, step;
  const T* weight;
  Index weight_row, weight_column;
  Index rows, columns;
  T* to;
  Index to_step, count;  // elements between the pixels of the result; their number
  Index channels;
  Write mode;
  const Source* next;  // the first of the `step` rows that the next line reads and this one does not
  T zero = 0;
};

template <class T, int kBytes, class Source>
[[gnu::always_inline]] inline Vector<T, kBytes> load_source(const Source* from, T zero) {
  if constexpr (std::is_same_v<T, Source>) {
    return load<T, kBytes>(from);
  } else {
    static_assert(std::is_same_v<T, float> && std::is_same_v<Source, std::uint8_t>);
    // Intrinsics, because the compiler converts vectors of bytes element by element.
    using Whole = Vector<std::int32_t, kBytes>;
#ifdef __AVX512F__
    if constexpr (kBytes == 64)  // masked: in the other form, GCC 12 warns of an undefined value
      return __builtin_convertvector(reinterpret_cast<Whole>(_mm512_maskz_cvtepu8_epi32(
                                         0xFFFF, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))),
                                     Vector<T, kBytes>) -
             zero;
#endif
#ifdef __AVX2__
    if constexpr (kBytes == 32)
      return __builtin_convertvector(reinterpret_cast<Whole>(_mm256_cvtepu8_epi32(
                                         _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))),
                                     Vector<T, kBytes>) -
             zero;
#endif
    return __builtin_convertvector(load<Source, kLanes<T, kBytes>>(from), Vector<T, kBytes>) - zero;
  }
}

// Computes P pixels of a line for one vector of channels; the window has K columns and stride S. Every pixel
// of the source is read once for all sums that it is part of. kEnds: some source pixels may lie outside.
template <class T, int kBytes, int K, int S, int P, bool kEnds, class Source>
[[gnu::always_inline]] inline void sum_taps(const Line<T, Source>& line, Index pixel, Index channel) {
  Vector<T, kBytes> sums[P] = {};
  const Index at = line.start + pixel * S;
  const Source* source = line.source + at * line.channels + channel;
  const T* weight = line.weight + channel;
  for (Index a = 0; a < line.rows; ++a, source += line.source_row, weight += line.weight_row) {
    Vector<T, kBytes> w[K];
#pragma GCC unroll 8
    for (int b = 0; b < K; ++b) w[b] = load<T, kBytes>(weight + b * line.weight_column);
#pragma GCC unroll 32
    for (int q = 0; q < (P - 1) * S + K; ++q) {
      if (kEnds && (at + q < 0 || at + q >= line.length)) continue;
      const Vector<T, kBytes> x = load_source<T, kBytes>(source + q * line.channels, line.zero);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p)
        if (q - p * S >= 0 && q - p * S < K) sums[p] += w[q - p * S] * x;
    }
  }
  // Prefetches the pixels of the next line: the addresses of this one jump from vector to vector, which no
  // processor predicts.
#pragma GCC unroll 2
  for (int a = 0; a < S; ++a)
#pragma GCC unroll 16
    for (int q = 0; q < P * S; ++q)
      __builtin_prefetch(line.next + a * line.source_row + (pixel * S + q) * line.channels + channel);
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    T* to = line.to + (pixel + p) * line.to_step + channel;
    __builtin_prefetch(to + line.count * line.to_step, 1);
    store<T, kBytes>(to, line.mode == Write::assign ? sums[p] : load<T, kBytes>(to) + sums[p]);
  }
}

// One channel of one pixel, for any window.
template <class T, class Source>
[[gnu::always_inline]] inline void sum_taps(const Line<T, Source>& line, Index pixel, Index channel) {
  const Index at = line.start + pixel * line.step;
  const auto [first, last] = Inside(at, 1, line.length, line.columns);
  T sum = 0;
  for (Index a = 0; a < line.rows; ++a)
    for (Index b = first; b < last; ++b)
      sum += (static_cast<T>(line.source[a * line.source_row + (at + b) * line.channels + channel]) -
              line.zero) *
             line.weight[a * line.weight_row + b * line.weight_column + channel];
  write(line.to[pixel * line.to_step + channel], sum, line.mode);
}

// Computes channels from `channel` on, as long as they fill vectors of kBytes; returns the first channel
// left.
template <class T, int kBytes, int K, int S, int P, class Source>
[[gnu::always_inline]] inline Index vectors(const Line<T, Source>& line, Index pixel, Index channel) {
  constexpr Index n = kLanes<T, kBytes>;
  const Index at = line.start + pixel * S;
  if (at < 0 || at + (P - 1) * S + K > line.length) {
    for (; channel + n <= line.channels; channel += n)
      sum_taps<T, kBytes, K, S, P, true>(line, pixel, channel);
  } else {
    for (; channel + n <= line.channels; channel += n)
      sum_taps<T, kBytes, K, S, P, false>(line, pixel, channel);
  }
  return channel;
}

template <class T, int kBytes, int K, int S, int P, class Source>
void pixels(const Line<T, Source>& line, Index pixel) {
  Index channel = vectors<T, kBytes, K, S, P>(line, pixel, 0);
  if constexpr (kBytes > 32) channel = vectors<T, 32, K, S, P>(line, pixel, channel);
  for (; channel < line.channels; ++channel)
    for (int p = 0; p < P; ++p) sum_taps(line, pixel + p, channel);
}

template <class T, int kBytes, int K, int S, class Source>
void run(const Line<T, Source>& line) {
  // The sums of seven pixels and five weights fit the sixteen registers, and the sides of images are often
  // multiples of seven.
  Index pixel = 0;
  for (; pixel + 7 <= line.count; pixel += 7) pixels<T, kBytes, K, S, 7>(line, pixel);
  for (; pixel + 3 <= line.count; pixel += 3) pixels<T, kBytes, K, S, 3>(line, pixel);
  for (; pixel < line.count; ++pixel) pixels<T, kBytes, K, S, 1>(line, pixel);
}

template <class T, int kBytes, class Source>
void run(const Line<T, Source>& line) {
  const auto with_step = [&]<int K>() {
    if (line.step == 1) return run<T, kBytes, K, 1>(line), true;
    if (line.step == 2) return run<T, kBytes, K, 2>(line), true;
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

// Row `row` of the convolution of an image [height, width, channels].
template <class T, class Source>
Line<T, Source> forward_line(const Source* image, Index height, Index width, Index channels,
                             const Window& window, const T* weight, Index row, T* to, T zero = 0) {
  const Index from = row * window.stride - window.padding;
  const auto [first, last] = Inside(from, 1, height, window.size);
  return {.source = image + (from + first) * width * channels,
          .source_row = width * channels,
          .length = width,
          .start = -window.padding,
          .step = window.stride,
          .weight = weight + first * window.size * channels,
          .weight_row = window.size * channels,
          .weight_column = channels,
          .rows = last - first,
          .columns = window.size,
          .to = to,
          .to_step = channels,
          .count = window.positions(width),
          .channels = channels,
          .mode = Write::assign,
          .next = image + (from + window.size) * width * channels,
          .zero = zero};
}

// One row of the output's gradient, and the row of x that one row of the window saw.
template <class T>
struct RowPair {
  const T *dy, *x;
  Index width, out_width, channels;
  Index step, from;  // pixel i saw x's pixels i step + from + b
};

// One image's part: dweight [window's rows, columns, channels] += its products.
template <class T>
struct ImageProducts {
  const T *dy, *x;
  Index height, width, out_height, out_width, channels;
  Window window;

  template <class Each>
  [[gnu::always_inline]] void for_rows(Index a, Index b, Each each) const {
    const Index from = a - window.padding;
    const auto [first, last] = Inside(from, window.stride, height, out_height);
    for (Index row = first; row < last; ++row)
      each(RowPair<T>{dy + row * out_width * channels, x + (row * window.stride + from) * width * channels,
                      width, out_width, channels, window.stride, b - window.padding});
  }
};

// sums [B columns of the window, V vectors] += dy x over the pixels of a row.
template <class T, int kBytes, int B, int V>
[[gnu::always_inline]] inline void add_row(const RowPair<T>& pair, Index channel,
                                           Vector<T, kBytes> (&sums)[B][V]) {
  constexpr Index n = kLanes<T, kBytes>;
  const auto add = [&](Index pixel, auto counts) [[gnu::always_inline]] {
    const T* dy = pair.dy + pixel * pair.channels + channel;
    const T* x = pair.x + (pixel * pair.step + pair.from) * pair.channels + channel;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vector<T, kBytes> d = load<T, kBytes>(dy + v * n);
#pragma GCC unroll 5
      for (int b = 0; b < B; ++b)
        if (counts(pixel * pair.step + pair.from + b))
          sums[b][v] += d * load<T, kBytes>(x + b * pair.channels + v * n);
    }
  };
  const auto some = [&](Index at) { return at >= 0 && at < pair.width; };
  // Between `whole` and `end`, all columns of the window lie within the row.
  const Index whole = Inside(pair.from, pair.step, pair.width, pair.out_width).first;
  const Index end = std::max(whole, Inside(pair.from + B - 1, pair.step, pair.width, pair.out_width).last);
  Index pixel = 0;
  for (; pixel < whole; ++pixel) add(pixel, some);
  for (; pixel < end; ++pixel) add(pixel, [](Index) { return true; });
  for (; pixel < pair.out_width; ++pixel) add(pixel, some);
}

// Adds channels from `channel` on, as long as they fill V vectors; returns the first channel left.
template <class T, int kBytes, int B, int V>
[[gnu::always_inline]] inline Index add_channels(const ImageProducts<T>& image, Index a, Index b,
                                                 Index channel, T* dweight) {
  constexpr Index n = kLanes<T, kBytes>;
  for (; channel + V * n <= image.channels; channel += V * n) {
    Vector<T, kBytes> sums[B][V] = {};
    image.for_rows(a, b, [&](const RowPair<T>& pair) [[gnu::always_inline]] {
      add_row<T, kBytes, B, V>(pair, channel, sums);
    });
#pragma GCC unroll 5
    for (int i = 0; i < B; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        T* to = dweight + i * image.channels + channel + v * n;
        store<T, kBytes>(to, load<T, kBytes>(to) + sums[i][v]);
      }
  }
  return channel;
}

// dweight [B columns of a row of the window, channels] += an image's part.
template <class T, int kBytes, int B>
void add_columns(const ImageProducts<T>& image, Index a, Index b, T* dweight) {
  Index channel = add_channels<T, kBytes, B, std::min(12 / B, 4)>(image, a, b, 0, dweight);
  channel = add_channels<T, kBytes, B, 1>(image, a, b, channel, dweight);
  if constexpr (kBytes > 32) channel = add_channels<T, 32, B, 1>(image, a, b, channel, dweight);
  for (; channel < image.channels; ++channel)
    for (int i = 0; i < B; ++i) {
      T sum = 0;
      image.for_rows(a, b + i, [&](const RowPair<T>& pair) [[gnu::always_inline]] {
        const auto [first, last] = Inside(pair.from, pair.step, pair.width, pair.out_width);
        for (Index pixel = first; pixel < last; ++pixel)
          sum += pair.dy[pixel * pair.channels + channel] *
                 pair.x[(pixel * pair.step + pair.from) * pair.channels + channel];
      });
      dweight[i * image.channels + channel] += sum;
    }
}

template <class T, int kBytes>
void add_products(const ImageProducts<T>& image, T* dweight) {
  const Index size = image.window.size;
  for (Index a = 0; a < size; ++a)
    for (Index b = 0; b < size;) {
      T* to = dweight + (a * size + b) * image.channels;
      const Index left = size - b;
      if (left >= 5)
        add_columns<T, kBytes, 5>(image, a, b, to), b += 5;
      else if (left >= 3)
        add_columns<T, kBytes, 3>(image, a, b, to), b += 3;
      else
        add_columns<T, kBytes, 1>(image, a, b++, to);
    }
}

extern template void run<float, 32>(const Line<float, std::uint8_t>&);
extern template void run<float, 64>(const Line<float, std::uint8_t>&);
extern template void run<float, 32>(const Line<float>&);
extern template void run<double, 32>(const Line<double>&);
extern template void run<float, 64>(const Line<float>&);
extern template void run<double, 64>(const Line<double>&);
extern template void add_products<float, 32>(const ImageProducts<float>&, float*);
extern template void add_products<double, 32>(const ImageProducts<double>&, double*);
extern template void add_products<float, 64>(const ImageProducts<float>&, float*);
extern template void add_products<double, 64>(const ImageProducts<double>&, double*);

/// run() in the widest vectors that the processor has.
template <class T, class Source>
void run_widest(const Line<T, Source>& line) {
#ifdef CONCLAVE_WIDE_VECTORS
  if (has_wide_vectors()) return run<T, 64>(line);
#endif
  run<T, 32>(line);
}

}  // namespace conclave::kernels::depthwise_lines

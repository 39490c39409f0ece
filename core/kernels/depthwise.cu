#include "core/cuda/scratch.h"
#include "core/kernels/cuda_column_sums.h"
#include "core/kernels/cuda_images.h"
#include "core/kernels/depthwise.h"

namespace conclave::kernels::cuda {
namespace {

// A window of kSize by kSize with stride kStride has unrolled loops: a thread computes kPixels adjacent
// pixels of a row, whose windows overlap. kSize 0 stands for any window, and one pixel at a time.
template <int kSize>
inline constexpr int kPixels = kSize > 0 ? 4 : 1;

// Images that windows read, `source`, and images for the results, `to`.
template <class T>
struct Sight {
  const T *source, *weight;
  T* to;
  Index height, width;        // of the source
  Index to_height, to_width;  // and of the results
  Index channels;
  Window window;

  __device__ Index source_at(Index image, Index row, Index channel) const {
    return (image * height + row) * width * channels + channel;
  }
  __device__ Index to_at(Index image, Index row, Index column, Index channel) const {
    return ((image * to_height + row) * to_width + column) * channels + channel;
  }
};

template <class T, int kWidth>
__device__ void add_product(Pack<T, kWidth>& sum, const Pack<T, kWidth>& a, const Pack<T, kWidth>& b) {
  for (int j = 0; j < kWidth; ++j) sum.at[j] += a.at[j] * b.at[j];
}

// turned: the window is rotated by half a turn, for the gradient of the input.
template <class T, int kWidth, int kSize, int kStride>
__global__ void __launch_bounds__(kBlock) depthwise_kernel(Sight<T> sight, bool turned, Write mode) {
  constexpr int kCount = kPixels<kSize>;
  const Index image = blockIdx.x, channel = first_channel<kWidth>(), channels = sight.channels;
  if (channel >= channels) return;
  const Window window = sight.window;
  const Index size = kSize > 0 ? kSize : window.size, stride = kSize > 0 ? kStride : window.stride;
  const auto weight = [&](Index a, Index b) {
    const Index tap = a * size + b;
    return load<kWidth>(sight.weight + (turned ? size * size - 1 - tap : tap) * channels + channel);
  };
  const Index of_row = (sight.to_width + kCount - 1) / kCount;
  for_part(sight.to_height * of_row, blockIdx.z, gridDim.z, [&](Index item) {
    const Index row = item / of_row, column = item % of_row * kCount;
    const Index top = row * stride - window.padding, left = column * stride - window.padding;
    Pack<T, kWidth> sums[kCount] = {};
    for (Index a = 0; a < size; ++a) {
      if (top + a < 0 || top + a >= sight.height) continue;
      const T* const line = sight.source + sight.source_at(image, top + a, channel);
      if constexpr (kSize > 0) {
        Pack<T, kWidth> weights[kSize];
#pragma unroll
        for (int b = 0; b < kSize; ++b) weights[b] = weight(a, b);
#pragma unroll
        for (int q = 0; q < (kCount - 1) * kStride + kSize; ++q) {
          if (left + q < 0 || left + q >= sight.width) continue;
          const Pack<T, kWidth> value = load<kWidth>(line + (left + q) * channels);
#pragma unroll
          for (int p = 0; p < kCount; ++p)
            if (q - p * kStride >= 0 && q - p * kStride < kSize)
              add_product(sums[p], weights[q - p * kStride], value);
        }
      } else {
        for (Index b = 0; b < size; ++b)
          if (left + b >= 0 && left + b < sight.width)
            add_product(sums[0], weight(a, b), load<kWidth>(line + (left + b) * channels));
      }
    }
#pragma unroll
    for (int p = 0; p < kCount; ++p)
      if (column + p < sight.to_width)
        write_pack<kWidth>(sight.to + sight.to_at(image, row, column + p, channel), sums[p], mode);
  });
}

// The gradient of the input for strides above 1: only every stride-th row and column of the window saw a
// pixel.
template <class T, int kWidth>
__global__ void __launch_bounds__(kBlock) depthwise_backward_input_kernel(Sight<T> sight, Write mode) {
  const Index image = blockIdx.x, channel = first_channel<kWidth>(), channels = sight.channels;
  if (channel >= channels) return;
  const auto [size, stride, padding] = sight.window;
  for_part(sight.to_height * sight.to_width, blockIdx.z, gridDim.z, [&](Index item) {
    const Index row = item / sight.to_width, column = item % sight.to_width;
    Pack<T, kWidth> sum{};
    for (Index a = (row + padding) % stride; a < size && a <= row + padding; a += stride) {
      const Index from = (row + padding - a) / stride;
      if (from >= sight.height) continue;
      const T* const line = sight.source + sight.source_at(image, from, channel);
      for (Index b = (column + padding) % stride; b < size && b <= column + padding; b += stride) {
        const Index at = (column + padding - b) / stride;
        if (at < sight.width)
          add_product(sum, load<kWidth>(sight.weight + (a * size + b) * channels + channel),
                      load<kWidth>(line + at * channels));
      }
    }
    write_pack<kWidth>(sight.to + sight.to_at(image, row, column, channel), sum, mode);
  });
}

template <class T, int kWidth>
struct Sum {
  Pack<T, kWidth> value;
  __device__ void add(const Sum& other) {
    for (int j = 0; j < kWidth; ++j) value.at[j] += other.value.at[j];
  }
};

// Taps in a row of a window that is not unrolled, for which one block computes the sums.
constexpr int kTaps = 7;

// partial [parts, size, size, channels], from dy, shaped like `to`, and the source. Blocks are [parts, packs,
// taps]: one block has all taps of an unrolled window, otherwise kTaps taps of a row.
template <class T, int kWidth, int kSize, int kStride>
__global__ void __launch_bounds__(kBlock)
    depthwise_backward_weight_kernel(Index images, Sight<T> sight, const T* dy, T* partial) {
  constexpr int kCount = kPixels<kSize>, kRows = kSize > 0 ? kSize : 1, kColumns = kSize > 0 ? kSize : kTaps;
  const Index part = blockIdx.x, channel = first_channel<kWidth>(), channels = sight.channels;
  const Window window = sight.window;
  const Index stride = kSize > 0 ? kStride : window.stride;
  const Index of_window = (window.size + kColumns - 1) / kColumns;
  const Index first_row = blockIdx.z / of_window, first_column = blockIdx.z % of_window * kColumns,
              columns = kSize > 0 ? kSize : window.size - first_column;
  const Index of_row = (sight.to_width + kCount - 1) / kCount, of_image = sight.to_height * of_row;
  Sum<T, kWidth> sums[kRows][kColumns] = {};
  if (channel < channels)
    for_part(images * of_image, part, gridDim.x, [&](Index item) {
      const Index image = item / of_image, row = item % of_image / of_row, column = item % of_row * kCount;
      const Index top = row * stride - window.padding + first_row,
                  left = column * stride - window.padding + first_column;
      Pack<T, kWidth> up[kCount] = {};
#pragma unroll
      for (int p = 0; p < kCount; ++p)
        if (column + p < sight.to_width)
          up[p] = load<kWidth>(dy + sight.to_at(image, row, column + p, channel));
#pragma unroll
      for (int a = 0; a < kRows; ++a) {
        if (top + a < 0 || top + a >= sight.height) continue;
        const T* const line = sight.source + sight.source_at(image, top + a, channel);
#pragma unroll
        for (int q = 0; q < (kCount - 1) * kStride + kColumns; ++q) {
          if (left + q < 0 || left + q >= sight.width || (kSize == 0 && q >= columns)) continue;
          const Pack<T, kWidth> value = load<kWidth>(line + (left + q) * channels);
#pragma unroll
          for (int p = 0; p < kCount; ++p)
            if (q - p * kStride >= 0 && q - p * kStride < kColumns)
              add_product(sums[a][q - p * kStride].value, up[p], value);
        }
      }
    });
#pragma unroll
  for (int a = 0; a < kRows; ++a)
#pragma unroll
    for (int b = 0; b < kColumns; ++b) {
      if (b >= columns) continue;
      const Sum<T, kWidth> sum = sum_of_block(sums[a][b]);
      const Index tap = (first_row + a) * window.size + first_column + b;
      if (threadIdx.y == 0 && channel < channels)
        store<kWidth>(partial + (part * window.size * window.size + tap) * channels + channel, sum.value);
    }
}

// One part's sums for the weights.
template <class T>
struct WeightTerms {
  Index elements;
  const T* partial;
  __device__ void operator()(Index part, Index element, T (&sums)[1]) const {
    sums[0] += partial[part * elements + element];
  }
};

// Calls body.operator()<kSize, kStride>() with the window's size and stride if it is unrolled, else with
// zeros.
template <int kLargest, class Body>
void for_window(const Window& window, Body body) {
  const auto try_size = [&]<int kSize>() {
    if constexpr (kSize <= kLargest)
      if (window.size == kSize && window.stride <= 2) {
        if (window.stride == 1)
          body.template operator()<kSize, 1>();
        else
          body.template operator()<kSize, 2>();
        return true;
      }
    return false;
  };
  if (try_size.template operator()<3>() || try_size.template operator()<5>() ||
      try_size.template operator()<7>())
    return;
  body.template operator()<0, 0>();
}

template <class T>
Sight<T> sight_of(const Tensor& source, const Tensor& weight, const Window& window, const Tensor& to) {
  return {source.data<T>(), weight.data<T>(), to.data<T>(), source.size(1), source.size(2),
          to.size(1),       to.size(2),       to.size(3),   window};
}

template <class T>
void see(const char* operation, const Tensor& source, const Tensor& weight, const Window& window,
         const Tensor& to, bool turned, Write write) {
  for_window<7>(window, [&]<int kSize, int kStride>() {
    for_width<T>(to.size(3), {source.raw(), weight.raw(), to.raw()}, [&]<int kWidth>() {
      const Index items = to.size(1) * ((to.size(2) + kPixels<kSize> - 1) / kPixels<kSize>);
      LaunchShape shape = image_shape<kWidth>(to.size(0), items, to.size(3));
      shape.grid.z = independent_parts(shape, items);
      launch(operation, depthwise_kernel<T, kWidth, kSize, kStride>, shape,
             sight_of<T>(source, weight, window, to), turned, write);
    });
  });
}

}  // namespace

void depthwise(const Tensor& x, const Tensor& weight, const Window& window, const Tensor& y) {
  if (y.numel() == 0) return;
  for_floating(x.dtype(), "depthwise",
               [&]<class T>(T) { see<T>("depthwise", x, weight, window, y, false, Write::assign); });
}

void depthwise_backward_input(const Tensor& dy, const Tensor& weight, const Window& window, const Tensor& dx,
                              Write write) {
  constexpr const char* kOperation = "depthwise backward";
  if (dx.numel() == 0) return;
  for_floating(dx.dtype(), kOperation, [&]<class T>(T) {
    if (window.stride == 1)  // a convolution of dy
      return see<T>(kOperation, dy, weight, {window.size, 1, window.size - 1 - window.padding}, dx, true,
                    write);
    for_width<T>(dx.size(3), {dy.raw(), weight.raw(), dx.raw()}, [&]<int kWidth>() {
      const Index items = dx.size(1) * dx.size(2);
      LaunchShape shape = image_shape<kWidth>(dx.size(0), items, dx.size(3));
      shape.grid.z = independent_parts(shape, items);
      launch(kOperation, depthwise_backward_input_kernel<T, kWidth>, shape,
             sight_of<T>(dy, weight, window, dx), write);
    });
  });
}

void depthwise_backward_weight(const Tensor& dy, const Tensor& x, const Window& window,
                               const Tensor& dweight) {
  constexpr const char* kOperation = "depthwise backward";
  // The fewest pixels of a part for each tap, so that the work of adding up parts is small beside them.
  constexpr Index kTapPixels = 16;
  if (x.numel() == 0) return;
  const Index images = x.size(0), channels = x.size(3), taps = window.size * window.size;
  for_floating(x.dtype(), kOperation, [&]<class T>(T) {
    for_window<5>(window, [&]<int kSize, int kStride>() {  // up to this size the sums fit in registers
      for_width<T>(channels, {dy.raw(), x.raw()}, [&]<int kWidth>() {
        const Index items = images * dy.size(1) * ((dy.size(2) + kPixels<kSize> - 1) / kPixels<kSize>);
        LaunchShape shape = image_shape<kWidth>(1, items, channels);
        const Index parts = shape.grid.x = summed_parts(shape, items, kTapPixels * taps / kPixels<kSize>);
        if (kSize == 0)
          shape.grid.z = static_cast<unsigned>(window.size * ((window.size + kTaps - 1) / kTaps));
        conclave::cuda::Scratch scratch;
        T* const partial = scratch.array<T>(parts * dweight.numel());
        launch(kOperation, depthwise_backward_weight_kernel<T, kWidth, kSize, kStride>, shape, images,
               sight_of<T>(x, dweight, window, dy), dy.data<T>(), partial);
        add_column_sums<T, 1>(kOperation, parts, dweight.numel(), WeightTerms<T>{dweight.numel(), partial},
                              {dweight.data<T>()});
      });
    });
  });
}

}  // namespace conclave::kernels::cuda

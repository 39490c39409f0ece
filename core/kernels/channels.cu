#include "core/cuda/scratch.h"
#include "core/kernels/activated.h"
#include "core/kernels/channels.h"
#include "core/kernels/cuda_images.h"

namespace conclave::kernels::cuda {
namespace {

// A table's rows for images; if there is no table, every value is `otherwise`.
template <class T>
struct Table {
  const T* data = nullptr;
  Index stride = 0;
  T otherwise;

  explicit Table(const Tensor& table, T otherwise = 0) : otherwise(otherwise) {
    if (!table.defined()) return;
    data = table.data<T>();
    stride = table.size(0) == 1 ? 0 : table.size(1);
  }
  template <int kWidth>
  __device__ Pack<T, kWidth> at(Index image, Index channel) const {
    if (data) return load<kWidth>(data + image * stride + channel);
    Pack<T, kWidth> all;
    for (int j = 0; j < kWidth; ++j) all.at[j] = otherwise;
    return all;
  }
};

// ---- Sums over pixels

// The moments of `count` pixels; those of disjoint sets can be added (Chan, Golub, LeVeque 1979).
template <class T, int kWidth>
struct Moments {
  T count;
  Pack<T, kWidth> mean, squares;

  __device__ void add(const Moments& other) {
    const T total = count + other.count;
    if (total == T(0)) return;
    const T share = other.count / total;
    for (int j = 0; j < kWidth; ++j) {
      const T distance = other.mean.at[j] - mean.at[j];
      mean.at[j] += distance * share;
      squares.at[j] += other.squares.at[j] + distance * distance * (count * share);
    }
    count = total;
  }
  static __device__ Moments from(const T* means, const T* all_squares, Index i, T count) {
    return {count, load<kWidth>(means + i), load<kWidth>(all_squares + i)};
  }
  __device__ void store_to(T* means, T* all_squares, Index i) const {
    store<kWidth>(means + i, mean);
    store<kWidth>(all_squares + i, squares);
  }
};

template <class T>
struct OfPixels {
  template <int kWidth>
  using Sum = Moments<T, kWidth>;
  const T* x;

  template <int kWidth>
  __device__ Sum<kWidth> at(Index, Index, Index i) const {
    return {T(1), load<kWidth>(x + i), {}};
  }
};

template <class T, int kWidth>
struct Dots {
  Pack<T, kWidth> sum, dot;

  __device__ void add(const Dots& other) {
    for (int j = 0; j < kWidth; ++j) {
      sum.at[j] += other.sum.at[j];
      dot.at[j] += other.dot.at[j];
    }
  }
  static __device__ Dots from(const T* sums, const T* dots, Index i, T) {
    return {load<kWidth>(sums + i), load<kWidth>(dots + i)};
  }
  __device__ void store_to(T* sums, T* dots, Index i) const {
    if (sums) store<kWidth>(sums + i, sum);
    store<kWidth>(dots + i, dot);
  }
};

// Dots of gradients; a gradient is first multiplied by the activation's derivative at (x - centre) factor +
// addend.
template <class T, Activation kActivation>
struct OfGradients {
  template <int kWidth>
  using Sum = Dots<T, kWidth>;
  T* dz;
  const T* x;
  Table<T> centre, factor, addend;

  template <int kWidth>
  __device__ Sum<kWidth> at(Index image, Index channel, Index i) const {
    Pack<T, kWidth> up = load<kWidth>(dz + i), distance = load<kWidth>(x + i);
    const Pack<T, kWidth> middle = centre.template at<kWidth>(image, channel);
    for (int j = 0; j < kWidth; ++j) distance.at[j] -= middle.at[j];
    if constexpr (kActivation != Activation::none) {
      const Pack<T, kWidth> f = factor.template at<kWidth>(image, channel),
                            a = addend.template at<kWidth>(image, channel);
      for (int j = 0; j < kWidth; ++j) {
        T derivative;
        activated<kActivation>(distance.at[j] * f.at[j] + a.at[j], derivative);
        up.at[j] *= derivative;
      }
      store<kWidth>(dz + i, up);
    }
    Sum<kWidth> result{up, {}};
    for (int j = 0; j < kWidth; ++j) result.dot.at[j] = up.at[j] * distance.at[j];
    return result;
  }
};

// first, second [parts, images, channels]
template <class T, int kWidth, class Terms>
__global__ void __launch_bounds__(kBlock)
    channel_sums_kernel(ImageExtents extents, Terms terms, T* first, T* second) {
  const Index image = blockIdx.x, channel = first_channel<kWidth>();
  typename Terms::template Sum<kWidth> sum{};
  if (channel < extents.channels)
    for_part(extents.pixels, blockIdx.z, gridDim.z, [&](Index pixel) {
      sum.add(terms.template at<kWidth>(image, channel,
                                        (image * extents.pixels + pixel) * extents.channels + channel));
    });
  sum = sum_of_block(sum);
  if (threadIdx.y == 0 && channel < extents.channels)
    sum.store_to(first, second, (Index{blockIdx.z} * extents.images + image) * extents.channels + channel);
}

template <class T, int kWidth, class Terms>
struct AddParts {
  ImageExtents extents;
  Index parts;
  const T *first_parts, *second_parts;
  T *first, *second;

  template <int>
  __device__ void at(Index item) const {
    const Index i = item * kWidth;
    typename Terms::template Sum<kWidth> sum{};
    for (Index part = 0; part < parts; ++part) {
      const Index count =
          part_begin(extents.pixels, part + 1, parts) - part_begin(extents.pixels, part, parts);
      sum.add(sum.from(first_parts, second_parts, part * extents.images * extents.channels + i,
                       static_cast<T>(count)));
    }
    sum.store_to(first, second, i);
  }
};

// first, second [images, channels] = the sums of `terms` over pixels. If images and channels are too few to
// fill a device, images are divided into parts.
template <class T, class Terms>
void sum_channels(const char* operation, const Tensor& x, std::initializer_list<const void*> arrays,
                  const Terms& terms, T* first, T* second) {
  constexpr Index kPixels = 128;  // of a part at least, so that few sums are left to add
  const ImageExtents extents(x);
  const Index results = extents.images * extents.channels;
  if (results == 0) return;
  for_width<T>(extents.channels, arrays, [&]<int kWidth>() {
    LaunchShape shape = image_shape<kWidth>(extents.images, extents.pixels, extents.channels);
    shape.grid.z = summed_parts(shape, extents.pixels, kPixels);
    const Index parts = shape.grid.z;
    if (parts == 1)
      return launch(operation, channel_sums_kernel<T, kWidth, Terms>, shape, extents, terms, first, second);
    conclave::cuda::Scratch scratch;
    T *const first_parts = scratch.array<T>(parts * results), *const second_parts =
                                                                  scratch.array<T>(parts * results);
    launch(operation, channel_sums_kernel<T, kWidth, Terms>, shape, extents, terms, first_parts,
           second_parts);
    for_items(operation, results / kWidth,
              AddParts<T, kWidth, Terms>{extents, parts, first_parts, second_parts, first, second});
  });
}

// ---- A factor and an addend

template <class T, Activation kActivation, int kWidth>
__global__ void __launch_bounds__(kBlock)
    scale_channels_kernel(ImageExtents extents, const T* x, Table<T> centre, Table<T> factor, Table<T> addend,
                          T* y, T* derivative) {
  const Index image = blockIdx.x, channel = first_channel<kWidth>();
  if (channel >= extents.channels) return;
  const Pack<T, kWidth> m = centre.template at<kWidth>(image, channel),
                        f = factor.template at<kWidth>(image, channel),
                        a = addend.template at<kWidth>(image, channel);
  for_part(extents.pixels, blockIdx.z, gridDim.z, [&](Index pixel) {
    const Index i = (image * extents.pixels + pixel) * extents.channels + channel;
    Pack<T, kWidth> value = load<kWidth>(x + i), slope;
    for (int j = 0; j < kWidth; ++j)
      value.at[j] = activated<kActivation>((value.at[j] - m.at[j]) * f.at[j] + a.at[j], slope.at[j]);
    store<kWidth>(y + i, value);
    if (derivative) store<kWidth>(derivative + i, slope);
  });
}

template <class T, bool kSloped, int kWidth>
__global__ void __launch_bounds__(kBlock)
    scale_channels_backward_kernel(ImageExtents extents, const T* dz, const T* x, Table<T> centre,
                                   Table<T> factor, Table<T> slope, Table<T> addend, T* dx, Write mode) {
  const Index image = blockIdx.x, channel = first_channel<kWidth>();
  if (channel >= extents.channels) return;
  const Pack<T, kWidth> f = factor.template at<kWidth>(image, channel);
  Pack<T, kWidth> m, s, a;
  if constexpr (kSloped) {
    m = centre.template at<kWidth>(image, channel);
    s = slope.template at<kWidth>(image, channel);
    a = addend.template at<kWidth>(image, channel);
  }
  for_part(extents.pixels, blockIdx.z, gridDim.z, [&](Index pixel) {
    const Index i = (image * extents.pixels + pixel) * extents.channels + channel;
    Pack<T, kWidth> value = load<kWidth>(dz + i);
    for (int j = 0; j < kWidth; ++j) value.at[j] *= f.at[j];
    if constexpr (kSloped) {
      const Pack<T, kWidth> in = load<kWidth>(x + i);
      for (int j = 0; j < kWidth; ++j) value.at[j] += (in.at[j] - m.at[j]) * s.at[j] + a.at[j];
    }
    write_pack<kWidth>(dx + i, value, mode);
  });
}

template <int kWidth>
LaunchShape scaling_shape(const ImageExtents& extents) {
  LaunchShape shape = image_shape<kWidth>(extents.images, extents.pixels, extents.channels);
  shape.grid.z = independent_parts(shape, extents.pixels);
  return shape;
}

}  // namespace

void channel_moments(const Tensor& x, const Tensor& mean, const Tensor& squares) {
  for_floating(x.dtype(), "channel_moments", [&]<class T>(T) {
    sum_channels("channel_moments", x, {x.raw(), mean.raw(), squares.raw()}, OfPixels<T>{x.data<T>()},
                 mean.data<T>(), squares.data<T>());
  });
}

void channel_dots(const Tensor& dz, const Tensor& x, const Tensor& centre, const Tensor& sums,
                  const Tensor& dots, const ScaledBy& by) {
  for_floating(x.dtype(), "channel_dots", [&]<class T>(T) {
    for_activation(by.activation, [&]<Activation kActivation>() {
      sum_channels(
          "channel_dots", x,
          {dz.raw(), x.raw(), centre.raw(), by.factor.raw(), by.addend.raw(), sums.raw(), dots.raw()},
          OfGradients<T, kActivation>{dz.data<T>(), x.data<T>(), Table<T>(centre), Table<T>(by.factor),
                                      Table<T>(by.addend)},
          sums.defined() ? sums.data<T>() : nullptr, dots.data<T>());
    });
  });
}

void scale_channels(const Tensor& x, const Tensor& centre, const Tensor& factor, const Tensor& addend,
                    Activation activation, const Tensor& y, const Tensor& derivative) {
  const ImageExtents extents(x);
  if (x.numel() == 0) return;
  for_floating(x.dtype(), "scale_channels", [&]<class T>(T) {
    for_activation(activation, [&]<Activation kActivation>() {
      for_width<T>(extents.channels,
                   {x.raw(), centre.raw(), factor.raw(), addend.raw(), y.raw(), derivative.raw()},
                   [&]<int kWidth>() {
                     launch("scale_channels", scale_channels_kernel<T, kActivation, kWidth>,
                            scaling_shape<kWidth>(extents), extents, x.data<T>(), Table<T>(centre),
                            Table<T>(factor, 1), Table<T>(addend), y.data<T>(),
                            derivative.defined() ? derivative.data<T>() : nullptr);
                   });
    });
  });
}

void scale_channels_backward(const Tensor& dz, const Tensor& x, const Tensor& centre, const Tensor& factor,
                             const Tensor& slope, const Tensor& addend, const Tensor& dx, Write write) {
  const ImageExtents extents(dz);
  if (dz.numel() == 0) return;
  for_floating(dz.dtype(), "scale_channels backward", [&]<class T>(T) {
    for_width<T>(extents.channels,
                 {dz.raw(), x.raw(), centre.raw(), factor.raw(), slope.raw(), addend.raw(), dx.raw()},
                 [&]<int kWidth>() {
                   launch("scale_channels backward",
                          slope.defined() ? scale_channels_backward_kernel<T, true, kWidth>
                                          : scale_channels_backward_kernel<T, false, kWidth>,
                          scaling_shape<kWidth>(extents), extents, dz.data<T>(),
                          slope.defined() ? x.data<T>() : nullptr, Table<T>(centre), Table<T>(factor),
                          Table<T>(slope), Table<T>(addend), dx.data<T>(), write);
                 });
  });
}

}  // namespace conclave::kernels::cuda

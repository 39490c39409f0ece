#include "autograd/nn/scattering.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "core/kernels/convolution.h"

namespace conclave {
namespace {

using kernels::Window;

constexpr double kDeviation = 0.8, kFrequency = 3 * std::numbers::pi / 4;  // of the finest wavelets
constexpr double kSlant = 0.5;  // ratio of a wavelet's extent along its waves to that across
constexpr Window kFine{7, 1, 3}, kCoarse{13, 2, 6};
constexpr Window kMean4{11, 4, 5}, kMean2{7, 2, 3};
constexpr Index kAtOnce = 8;  // images at once; their intermediate results fit the caches

Tensor filters_of(Index count, const Window& window, DType dtype) {
  return Tensor::zeros({count, window.size, window.size, 1}, dtype);
}

// A Gaussian with sum 1.
template <class T>
void write_mean(double deviation, const Tensor& filter) {
  const Index size = filter.size(1), middle = size / 2;
  double total = 0;
  const auto line = [&](Index i) {
    return std::exp(-static_cast<double>((i - middle) * (i - middle)) / (2 * deviation * deviation));
  };
  for (Index i = 0; i < size; ++i) total += line(i);
  for (Index i = 0; i < size; ++i)
    for (Index j = 0; j < size; ++j)
      filter.data<T>()[i * size + j] = static_cast<T>(line(i) * line(j) / (total * total));
}

// A Gaussian times waves, minus a multiple of the Gaussian that makes the sum 0: the response to plain areas
// is 0.
template <class T>
void write_wavelets(int scale, const Tensor& filters) {
  const Index size = filters.size(1), area = size * size, middle = size / 2;
  const double deviation = std::ldexp(kDeviation, scale), frequency = std::ldexp(kFrequency, -scale);
  for (Index angle = 0; angle < Scattering::kAngles; ++angle) {
    const double theta = std::numbers::pi * static_cast<double>(angle) / Scattering::kAngles;
    std::vector<double> gauss, wave;  // [area]: the Gaussian, and the phase of the waves
    double mass = 0, mean = 0;
    for (Index i = 0; i < size; ++i)
      for (Index j = 0; j < size; ++j) {
        const auto x = static_cast<double>(j - middle), y = static_cast<double>(i - middle);
        const double along = x * std::cos(theta) + y * std::sin(theta),
                     across = kSlant * (y * std::cos(theta) - x * std::sin(theta));
        gauss.push_back(std::exp(-(along * along + across * across) / (2 * deviation * deviation)));
        wave.push_back(frequency * along);
        mass += gauss.back();
        mean += gauss.back() * std::cos(wave.back());
      }
    const double scaled = kSlant / (2 * std::numbers::pi * deviation * deviation);
    T* real = filters.data<T>() + 2 * angle * area;
    for (std::size_t i = 0; i < gauss.size(); ++i) {
      real[i] = static_cast<T>(scaled * gauss[i] * (std::cos(wave[i]) - mean / mass));
      real[static_cast<std::size_t>(area) + i] = static_cast<T>(scaled * gauss[i] * std::sin(wave[i]));
    }
  }
}

// Memory for the intermediate results of some images.
struct Scratch {
  Arena& arena;
  DType dtype;

  Tensor convolution(const Tensor& x, const Tensor& filters, const Window& window) const {
    const Tensor y = arena.empty_on_host(
        {x.size(0), window.positions(x.size(1)), window.positions(x.size(2)), filters.size(0)}, dtype);
    const ArenaScope scope(arena);
    kernels::convolution(x, filters, {}, window, Activation::none, y, {},
                         arena.empty_on_host({kernels::convolution_scratch(x, window)}, dtype));
    return y;
  }
  // Real and imaginary parts [planes, height, width, 2 x angles] -> [planes x angles, height, width, 1]
  template <class T>
  Tensor modulus(const Tensor& parts) const {
    const Index planes = parts.size(0), pixels = parts.size(1) * parts.size(2), angles = parts.size(3) / 2;
    const Tensor y = arena.empty_on_host({planes * angles, parts.size(1), parts.size(2), 1}, dtype);
    const T* from = parts.data<T>();
    T* to = y.data<T>();
#pragma omp parallel for schedule(static)
    for (Index plane = 0; plane < planes; ++plane)
      for (Index pixel = 0; pixel < pixels; ++pixel)
        for (Index angle = 0; angle < angles; ++angle) {
          const T* part = from + ((plane * pixels + pixel) * angles + angle) * 2;
          to[(plane * angles + angle) * pixels + pixel] = std::sqrt(part[0] * part[0] + part[1] * part[1]);
        }
    return y;
  }
};

// Copies [images x channels x count, height, width, 1] to the features from number `first` on of each
// channel.
template <class T>
void put(const Tensor& planes, Index images, Index channels, Index first, const Tensor& features) {
  const Index pixels = planes.size(1) * planes.size(2), count = planes.size(0) / (images * channels);
  const T* from = planes.data<T>();
  for (Index image = 0; image < images; ++image)
    for (Index channel = 0; channel < channels; ++channel)
      for (Index i = 0; i < count; ++i, from += pixels)
        for (Index pixel = 0; pixel < pixels; ++pixel)
          features.data<T>()[((image * pixels + pixel) * channels + channel) * Scattering::kFeatures + first +
                             i] = from[pixel];
}

}  // namespace

Scattering::Scattering() {
  for (const DType dtype : {DType::f32, DType::f64}) {
    Filters& filters = filters_[dtype == DType::f64];
    filters = {.fine = filters_of(2 * kAngles, kFine, dtype),
               .coarse = filters_of(2 * kAngles, kCoarse, dtype),
               .mean4 = filters_of(1, kMean4, dtype),
               .mean2 = filters_of(1, kMean2, dtype)};
    for_floating(dtype, "scattering", [&]<class T>(T) {
      write_wavelets<T>(0, filters.fine);
      write_wavelets<T>(1, filters.coarse);
      write_mean<T>(2 * kDeviation, filters.mean4);
      write_mean<T>(kDeviation, filters.mean2);
    });
  }
}

template <class T>
void Scattering::transform(const Filters& filters, Tape& tape, const Tensor& images,
                           const Tensor& features) const {
  const Index channels = images.size(3), pixels = images.size(1) * images.size(2);
  const Scratch scratch{tape.arena(), features.dtype()};
  for (Index first = 0; first < images.size(0); first += kAtOnce) {
    const Index count = std::min(kAtOnce, images.size(0) - first);
    const ArenaScope scope(tape.arena());
    const Tensor x =
        tape.arena().empty_on_host({count * channels, images.size(1), images.size(2), 1}, features.dtype());
    const std::uint8_t* bytes = images.data<std::uint8_t>() + first * pixels * channels;
    for (Index image = 0; image < count; ++image)
      for (Index pixel = 0; pixel < pixels; ++pixel)
        for (Index channel = 0; channel < channels; ++channel)
          x.data<T>()[(image * channels + channel) * pixels + pixel] = static_cast<T>(*bytes++) / T(255);
    const Tensor fine = scratch.modulus<T>(scratch.convolution(x, filters.fine, kFine));
    const Tensor coarse = scratch.modulus<T>(scratch.convolution(x, filters.coarse, kCoarse));
    const Tensor both = scratch.modulus<T>(scratch.convolution(fine, filters.coarse, kCoarse));
    const Tensor out = features.rows(first, first + count);
    put<T>(scratch.convolution(x, filters.mean4, kMean4), count, channels, 0, out);
    put<T>(scratch.convolution(fine, filters.mean4, kMean4), count, channels, 1, out);
    put<T>(scratch.convolution(coarse, filters.mean2, kMean2), count, channels, 1 + kAngles, out);
    put<T>(scratch.convolution(both, filters.mean2, kMean2), count, channels, 1 + 2 * kAngles, out);
  }
}

Tensor Scattering::operator()(Tape& tape, const Tensor& images, DType dtype) const {
  kernels::expect_rank("scattering", "images", images, 4);
  kernels::expect("scattering", "images", images, images.shape(), DType::u8);
  const Tensor features =
      tape.arena().empty_on_host({images.size(0), kMean4.positions(images.size(1)),
                                  kMean4.positions(images.size(2)), images.size(3) * kFeatures},
                                 dtype);
  for_floating(dtype, "scattering",
               [&]<class T>(T) { transform<T>(filters_[dtype == DType::f64], tape, images, features); });
  return features;
}

double Scattering::flops(Extent& extent) const {
  const Extent half{kCoarse.positions(extent.height), kCoarse.positions(extent.width)};
  const Extent quarter{kMean4.positions(extent.height), kMean4.positions(extent.width)};
  const auto of = [](Index planes, const Extent& out, Index filters, const Window& window) {
    return 2 * static_cast<double>(planes * out.rows() * filters * window.size * window.size);
  };
  const double total = of(1, extent, 2 * kAngles, kFine) + of(1 + kAngles, half, 2 * kAngles, kCoarse) +
                       of(1 + kAngles, quarter, 1, kMean4) +
                       of(kAngles + kAngles * kAngles, quarter, 1, kMean2);
  extent = quarter;
  return total;
}

}  // namespace conclave

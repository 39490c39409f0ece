#include "autograd/nn/scattering.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <complex>
#include <functional>
#include <numbers>
#include <vector>

#include "core/random.h"
#include "tests/core/values.h"

namespace conclave {
namespace {

constexpr Index kSide = 28;

Tensor image_of(const std::function<double(Index, Index)>& value) {
  const Tensor image = Tensor::empty({1, kSide, kSide, 1}, DType::u8);
  for (Index i = 0; i < kSide; ++i)
    for (Index j = 0; j < kSide; ++j)
      image.data<std::uint8_t>()[i * kSide + j] = static_cast<std::uint8_t>(255 * value(i, j));
  return image;
}

std::vector<double> scattered(const Tensor& images, DType dtype = DType::f64) {
  Arena arena("test");
  Tape tape(arena, false);
  const Tensor features = Scattering()(tape, images, dtype);
  std::vector<double> result;
  if (dtype == DType::f64)
    for (const double value : features.span<double>()) result.push_back(value);
  else
    for (const float value : features.span<float>()) result.push_back(value);
  return result;
}

double feature(const std::vector<double>& features, Index row, Index column, Index which) {
  return features[static_cast<std::size_t>((row * 7 + column) * Scattering::kFeatures + which)];
}

// Reference implementation after the paper's definitions, one number at a time.
using Plane = std::vector<std::vector<double>>;

Plane convolved(const Plane& x, Index stride, Index half,
                const std::function<std::complex<double>(double, double)>& filter) {
  Plane y;
  const auto side = static_cast<Index>(x.size());
  for (Index i = 0; i < side; i += stride) {
    y.emplace_back();
    for (Index j = 0; j < side; j += stride) {
      std::complex<double> sum = 0;
      for (Index a = -half; a <= half; ++a)
        for (Index b = -half; b <= half; ++b)
          if (i + a >= 0 && i + a < side && j + b >= 0 && j + b < side)
            sum += filter(static_cast<double>(b), static_cast<double>(a)) *
                   x[static_cast<std::size_t>(i + a)][static_cast<std::size_t>(j + b)];
      y.back().push_back(std::abs(sum));
    }
  }
  return y;
}

Plane wavelet(const Plane& x, int scale, Index angle, Index stride) {
  const double deviation = 0.8 * (1 << scale), frequency = 0.75 * std::numbers::pi / (1 << scale);
  const double theta = std::numbers::pi * static_cast<double>(angle) / 8;
  const auto parts = [&](double x1, double x2) {
    const double u = x1 * std::cos(theta) + x2 * std::sin(theta),
                 v = x2 * std::cos(theta) - x1 * std::sin(theta);
    return std::pair(std::exp(-(u * u + v * v / 4) / (2 * deviation * deviation)),
                     std::polar(1.0, frequency * u));
  };
  const Index half = scale == 0 ? 3 : 6;
  std::complex<double> waves = 0;
  double mass = 0;
  for (Index a = -half; a <= half; ++a)
    for (Index b = -half; b <= half; ++b) {
      const auto [gauss, wave] = parts(static_cast<double>(b), static_cast<double>(a));
      waves += gauss * wave;
      mass += gauss;
    }
  return convolved(x, stride, half, [&](double x1, double x2) {
    const auto [gauss, wave] = parts(x1, x2);
    return 0.5 / (2 * std::numbers::pi * deviation * deviation) * gauss * (wave - waves / mass);
  });
}

Plane mean(const Plane& x, Index stride) {
  const double deviation = stride == 4 ? 1.6 : 0.8;
  const Index half = stride == 4 ? 5 : 3;
  const auto gauss = [&](double x1, double x2) {
    return std::exp(-(x1 * x1 + x2 * x2) / (2 * deviation * deviation));
  };
  double mass = 0;
  for (Index a = -half; a <= half; ++a)
    for (Index b = -half; b <= half; ++b) mass += gauss(static_cast<double>(a), static_cast<double>(b));
  return convolved(x, stride, half, [&](double x1, double x2) { return gauss(x1, x2) / mass; });
}

TEST_CASE("scattering agrees with its definition", "[scattering]") {
  const RandomStream stream{.seed = 5};
  const Tensor image =
      image_of([&](Index i, Index j) { return stream.uniform(static_cast<std::uint64_t>(i * kSide + j)); });
  Plane x;
  for (Index i = 0; i < kSide; ++i) {
    x.emplace_back();
    for (Index j = 0; j < kSide; ++j) x.back().push_back(image.data<std::uint8_t>()[i * kSide + j] / 255.0);
  }
  const auto features = scattered(image), single = scattered(image, DType::f32);
  for (std::size_t i = 0; i < features.size(); ++i) CHECK(single[i] == Approx(features[i]).margin(1e-5));
  const Plane fine = wavelet(x, 0, 3, 1);
  const std::pair<Index, Plane> expected[] = {{0, mean(x, 4)},
                                              {1 + 3, mean(fine, 4)},
                                              {1 + 8 + 5, mean(wavelet(x, 1, 5, 2), 2)},
                                              {1 + 16 + 3 * 8 + 6, mean(wavelet(fine, 1, 6, 2), 2)}};
  for (const auto& [which, plane] : expected)
    for (Index i = 0; i < 7; ++i)
      for (Index j = 0; j < 7; ++j) {
        CAPTURE(which, i, j);
        CHECK(feature(features, i, j, which) ==
              Approx(plane[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]).margin(1e-6));
      }
}

TEST_CASE("scattering finds the angle of stripes and is zero on uniform areas", "[scattering]") {
  const auto plain = scattered(image_of([](Index, Index) { return 0.6; }));
  CHECK(feature(plain, 3, 3, 0) == Approx(0.6).epsilon(1e-3));
  for (Index which = 1; which < Scattering::kFeatures; ++which)
    CHECK(feature(plain, 3, 3, which) == Approx(0).margin(1e-4));
  const auto upright = scattered(image_of([](Index, Index j) { return j % 3 == 0; })),
             lying = scattered(image_of([](Index i, Index) { return i % 3 == 0; }));
  CHECK(feature(upright, 3, 3, 1) > 5 * feature(upright, 3, 3, 1 + 4));
  CHECK(feature(lying, 3, 3, 1 + 4) > 5 * feature(lying, 3, 3, 1));
}

TEST_CASE("scattering treats each image and channel separately", "[scattering]") {
  const Tensor images = Tensor::empty({11, 9, 6, 3}, DType::u8);
  const RandomStream stream{.seed = 6};
  for (Index i = 0; i < images.numel(); ++i)
    images.data<std::uint8_t>()[i] =
        static_cast<std::uint8_t>(256 * stream.uniform(static_cast<std::uint64_t>(i)));
  Arena arena("test");
  Tape tape(arena, false);
  const Scattering scattering;
  const Tensor all = scattering(tape, images, DType::f64);
  CHECK(all.shape() == Shape{11, 3, 2, 3 * Scattering::kFeatures});
  const Tensor one = Tensor::empty({1, 9, 6, 1}, DType::u8);
  for (Index i = 0; i < 54; ++i)
    one.data<std::uint8_t>()[i] = images.data<std::uint8_t>()[(9 * 54 + i) * 3 + 2];
  const Tensor alone = scattering(tape, one, DType::f64);
  for (Index pixel = 0; pixel < 6; ++pixel)
    for (Index which = 0; which < Scattering::kFeatures; ++which)
      CHECK(all.data<double>()[((9 * 6 + pixel) * 3 + 2) * Scattering::kFeatures + which] ==
            Approx(alone.data<double>()[pixel * Scattering::kFeatures + which]).margin(1e-12));
  CHECK(scattering(tape, images.rows(0, 0), DType::f32).numel() == 0);
}

TEST_CASE("scattering costs as much as its convolutions", "[scattering]") {
  Extent extent{28, 28};
  const double windows = 784.0 * 16 * 49 + 9 * 196.0 * 16 * 169 + 49.0 * (9 * 121 + 72 * 49);
  CHECK(Scattering().flops(extent) == 2 * windows);
  CHECK(extent.height == 7);
  CHECK(extent.width == 7);
}

}  // namespace
}  // namespace conclave

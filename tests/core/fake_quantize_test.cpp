#include "core/kernels/fake_quantize.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

constexpr QuantLevels kLevels[] = {QuantLevels::symmetric(8), QuantLevels::symmetric(4),
                                   QuantLevels::affine(8), QuantLevels::affine(7)};

TEST_CASE("row_ranges gives the smallest and largest value of each row", "[kernels]") {
  const Tensor x = Tensor::of<float>({3, 3}, {1, -2, 3, 4, 4, 4, -1, -5, -3});
  const Tensor low = unwritten({3}, DType::f32), high = low.clone();
  row_ranges(x, low, high);
  CHECK(same_bits(low, Tensor::of<float>({3}, {-2, 4, -5})));
  CHECK(same_bits(high, Tensor::of<float>({3}, {3, 4, -1})));
  const Tensor none = unwritten({2}, DType::f32);
  row_ranges(Tensor::empty({2, 0}), none, none);
  CHECK(same_bits(none, Tensor::zeros({2})));
}

TEMPLATE_TEST_CASE("a scale and zero point cover both ends of a range and represent zero exactly",
                   "[kernels]", float, double) {
  using T = TestType;
  const Tensor low = Tensor::of<T>({5}, {-3, 1, -4, 0, -2}), high = Tensor::of<T>({5}, {5, 6, -2, 0, 2});
  for (const QuantLevels levels : kLevels) {
    CAPTURE(levels.lowest, levels.highest);
    const Tensor scale = unwritten({5}, dtype_of<T>), zero = scale.clone();
    range_scales(low, high, levels, scale, zero);
    for (Index i = 0; i < 5; ++i) {
      const double s = double(scale.data<T>()[i]), z = double(zero.data<T>()[i]);
      const double least = std::min(double(low.data<T>()[i]), 0.0),
                   most = std::max(double(high.data<T>()[i]), 0.0);
      CHECK(z == std::round(z));
      CHECK(z >= levels.lowest);
      CHECK(z <= levels.highest);
      if (levels.is_symmetric()) CHECK(z == 0);
      // Up to half a step, because the zero point is rounded to an integer.
      CHECK(s * (levels.lowest - z) <= least + 0.5001 * s);
      CHECK(s * (levels.highest - z) >= most - 0.5001 * s);
    }
    CHECK(double(scale.data<T>()[3]) == 1);
  }
}

TEST_CASE("rows of tiny numbers are rounded to 0, not to NaN", "[kernels]") {
  for (const QuantLevels levels : kLevels) {
    const Tensor x = Tensor::of<float>({2, 3}, {1e-37F, 0, -1e-39F, -8e-38F, 0, -1e-45F});
    const Tensor low = unwritten({2}, DType::f32), high = low.clone(), scale = low.clone(),
                 zero = low.clone(), y = unwritten(x.shape(), DType::f32);
    row_ranges(x, low, high);
    range_scales(low, high, levels, scale, zero);
    fake_quantize(x, scale, zero, levels, y);
    for (const float value : y.span<float>()) CHECK(std::abs(value) <= 1.1e-37F);
  }
}

TEMPLATE_TEST_CASE("fake_quantize and its gradients follow their formulas", "[kernels]", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  for (const Shape& shape : {Shape{5, 37}, Shape{300, 70}, Shape{0, 3}}) {
    const Index rows = shape[0], columns = shape[1];
    const Tensor x = random_values(shape, 1, kType, 2), dy = random_values(shape, 2, kType);
    for (const QuantLevels levels : kLevels) {
      for (const bool one_for_all : {false, true}) {
        const Index scales = one_for_all ? 1 : rows;
        const Tensor scale = Tensor::empty({scales}, kType), zero = Tensor::empty({scales}, kType);
        for (Index i = 0; i < scales; ++i) {
          scale.data<T>()[i] = T(0.02) + T(0.001) * static_cast<T>(i);
          zero.data<T>()[i] = levels.is_symmetric() ? T(0) : static_cast<T>(40 + i % 20);
        }
        const Tensor y = Tensor::zeros(shape, DType::f64), dx = y.clone();
        const Tensor dscale = Tensor::zeros({rows}, DType::f64);
        for (Index i = 0; i < x.numel(); ++i) {
          const Index of = one_for_all ? 0 : i / columns;
          const T s = scale.data<T>()[of], steps = x.data<T>()[i] * (T(1) / s);
          const double z = double(zero.data<T>()[of]), q = double(std::nearbyint(steps)) + z;
          const double clamped = std::clamp<double>(q, levels.lowest, levels.highest);
          const bool within = q == clamped;
          const auto up = double(dy.data<T>()[i]);
          y.data<double>()[i] = double(s) * (clamped - z);
          dx.data<double>()[i] = within ? up : 0;
          dscale.data<double>()[i / columns] += up * (clamped - z - (within ? double(steps) : 0));
        }
        const Tensor actual = unwritten(shape, kType), ds = unwritten({rows}, kType);
        const Tensor zeros = levels.is_symmetric() ? Tensor() : zero;
        fake_quantize(x, scale, zeros, levels, actual);
        CHECK(distance(actual, y) < tolerance<T>);
        const Tensor written = unwritten(shape, kType), added = dy.clone();
        fake_quantize_backward(dy, x, scale, zeros, levels, written, Write::assign, ds);
        CHECK(distance(written, dx) < tolerance<T>);
        CHECK(distance(ds, dscale) < 20 * tolerance<T>);  // terms of the sums cancel
        fake_quantize_backward(dy, x, scale, zeros, levels, added, Write::accumulate, Tensor());
        CHECK(distance(added, plus(dx, dy)) < tolerance<T>);
      }
    }
  }
}

TEST_CASE("fake_quantize says which argument does not fit", "[kernels]") {
  const Tensor x = Tensor::zeros({2, 3}), three = Tensor::zeros({3});
  CHECK_THROWS_WITH(fake_quantize(x, three, Tensor(), {}, x), Catch::Contains("scale is f32 [3]"));
  CHECK_THROWS_WITH(fake_quantize(x, Tensor::zeros({2}), three, {}, x), Catch::Contains("zero_point"));
  CHECK_THROWS_WITH(fake_quantize(x, Tensor::zeros({1}), Tensor(), {3, 3}, x),
                    Catch::Contains("no levels from 3 to 3"));
}

}  // namespace
}  // namespace conclave::kernels

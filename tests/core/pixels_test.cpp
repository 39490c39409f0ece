#include <catch2/catch.hpp>

#include "core/kernels/pixels.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

using Catch::Matchers::Contains;

TEMPLATE_TEST_CASE("pixels are normalized by the mean and deviation of their channel", "[kernels]", float,
                   double) {
  constexpr double kMean[] = {0.1, 0.5, 0.9}, kDeviation[] = {0.25, 1, 0.3};
  const Tensor x = Tensor::empty({2, 7, 37, 3}, DType::u8), expected = Tensor::empty(x.shape(), DType::f64);
  for (Index i = 0; i < x.numel(); ++i) {
    x.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 89);
    expected.data<double>()[i] = (x.data<std::uint8_t>()[i] / 255.0 - kMean[i % 3]) / kDeviation[i % 3];
  }
  const Tensor y = unwritten(x.shape(), dtype_of<TestType>);
  pixels_to_floats(x, kMean, kDeviation, y);
  CHECK(distance(y, expected) < (std::is_same_v<TestType, float> ? 1e-6 : 1e-14));
  const Tensor none = Tensor::empty({0, 7, 37, 3}, DType::u8);
  pixels_to_floats(none, kMean, kDeviation, Tensor::empty(none.shape(), dtype_of<TestType>));
}

TEST_CASE("pixels that cannot be normalized are refused", "[kernels]") {
  const Tensor x = Tensor::zeros({1, 2, 2}, DType::u8), y = Tensor::empty({1, 2, 2});
  constexpr double kTwo[] = {0.5, 0.5}, kOne[] = {0.5}, kZero[] = {0.5, 0};
  CHECK_THROWS_WITH(pixels_to_floats(x, kTwo, kOne, y), Contains("2 means and 1 deviations for 2 channels"));
  CHECK_THROWS_WITH(pixels_to_floats(x, kTwo, kZero, y), Contains("a deviation of 0; it must be above 0"));
  CHECK_THROWS_WITH(pixels_to_floats(y, kTwo, kTwo, y), Contains("x is f32 [1, 2, 2], expected u8"));
}

}  // namespace
}  // namespace conclave::kernels

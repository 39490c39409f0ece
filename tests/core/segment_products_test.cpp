// Squared norms of the products of segments of rows. Clipping for privacy relies on them: they must not be
// too small.
#include "core/kernels/segment_products.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

double square_in_f64(const Tensor& dz, const Tensor& x) {
  const Tensor a = dz.to(DType::f64), b = x.to(DType::f64),
               product = Tensor::empty({a.size(1), b.size(1)}, DType::f64);
  matmul(a, Transpose::yes, b, Transpose::no, product);
  double square = 0;
  for (const double value : product.span<double>()) square += value * value;
  return square;
}

TEST_CASE("squares of f32 products are never too small, even with cancellation", "[segments]") {
  for (const auto& [rows, in, out] :
       {std::tuple<Index, Index, Index>{30, 96, 130}, {150, 70, 200}, {400, 16, 20}})
    for (const double rest : {1.0, 1e-3, 1e-6, 0.0}) {
      CAPTURE(rows, in, out, rest);
      // Rows come in pairs with the same x and opposite dz, up to `rest`, so that their products cancel.
      const Tensor x = random_values({rows, in}, 1, DType::f32),
                   dz = random_values({rows, out}, 2, DType::f32);
      for (Index row = 1; row < rows; row += 2) {
        for (Index i = 0; i < in; ++i) x.data<float>()[row * in + i] = x.data<float>()[(row - 1) * in + i];
        for (Index i = 0; i < out; ++i) {
          float& value = dz.data<float>()[row * out + i];
          value = -dz.data<float>()[(row - 1) * out + i] + static_cast<float>(rest) * value;
        }
      }
      const double truth = square_in_f64(dz, x);
      double most = 0;  // upper bound of the norm: the sum of the rows' norms, without cancellation
      for (Index row = 0; row < rows; ++row)
        most += std::sqrt(square_in_f64(dz.rows(row, row + 1), x.rows(row, row + 1)));
      std::vector<double> squares(1);
      const std::vector<Index> offsets{0, rows};
      add_product_squares(dz, x, {offsets}, squares);
      CHECK(squares[0] >= truth);
      CHECK(squares[0] <= truth + 1e-4 * most * most);
    }
}

TEST_CASE("segments that do not match their rows are refused", "[segments]") {
  const Tensor x = random_values({4, 3}, 1), sums = Tensor::zeros({2, 3}, DType::f64);
  const std::vector<Index> offsets{0, 1, 3};
  using Catch::Matchers::Contains;
  CHECK_THROWS_WITH(segment_sums(x, {offsets}, sums), Contains("4 rows, and segments of 3"));
  std::vector<double> factors(3);
  CHECK_THROWS_WITH(scale_segments(x.rows(0, 3), {offsets}, factors), Contains("3 numbers for 2 segments"));
  CHECK_THROWS_WITH(add_weighted(sums, factors, {}, x), Contains("do not match y [4, 3]"));
}

}  // namespace
}  // namespace conclave::kernels

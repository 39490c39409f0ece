#include <array>
#include <catch2/catch.hpp>
#include <limits>

#include "core/kernels/reduction.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

TEMPLATE_TEST_CASE("sums add up every element once", "[kernels]", float, double) {
  for (const Index count : {0, 1, 63, 64, 65, 1000, 40007}) {
    const Tensor x = random_values({count}, 1, dtype_of<TestType>);
    double total = 0, squares = 0;
    for (const TestType value : x.span<TestType>()) {
      total += double(value);
      squares += double(value) * double(value);
    }
    CHECK(sum(x) == Approx(total).margin(1e-10));
    CHECK(sum_of_squares(x) == Approx(squares).margin(1e-10));
  }
}

TEMPLATE_TEST_CASE("squares of rows are divided and added to the values that are there", "[kernels]", float,
                   double) {
  const Tensor x = random_values({3, 5, 7}, 1, dtype_of<TestType>), y = random_values({2}, 2, x.dtype());
  std::vector<double> squares{1, 2, 3, 4};
  add_row_squares(std::array{RowSquares{x, std::span(squares).first(3)},
                             RowSquares{y, std::span(squares).subspan(1, 2)}, RowSquares{x.rows(1, 1), {}}},
                  2);
  CHECK(squares[0] == 1 + sum_of_squares(x.rows(0, 1)) / 2);
  CHECK(squares[1] == Approx(2 + (sum_of_squares(x.rows(1, 2)) + sum_of_squares(y.rows(0, 1))) / 2));
  CHECK(squares[2] == Approx(3 + (sum_of_squares(x.rows(2, 3)) + sum_of_squares(y.rows(1, 2))) / 2));
  CHECK(squares[3] == 4);
  add_row_squares({}, 2);
  CHECK_THROWS_WITH(add_row_squares(std::array{RowSquares{x, squares}}, 1),
                    "row_squares: x is [3, 5, 7], expected [4, ...]");
}

TEST_CASE("the squares of large f32 values do not overflow", "[kernels]") {
  Tensor x = Tensor::zeros({40007});
  x.fill(1e30);
  CHECK(sum_of_squares(x) == Approx(40007 * 1e60).epsilon(1e-6));
}

TEMPLATE_TEST_CASE("all_finite finds one NaN or infinity anywhere", "[kernels]", float, double) {
  for (const Index count : {1, 65, 40007}) {
    const Tensor x = random_values({count}, 1, dtype_of<TestType>);
    CHECK(all_finite(x));
    for (const Index place : {Index{0}, count / 3, count - 1}) {
      for (const TestType bad :
           {std::numeric_limits<TestType>::quiet_NaN(), std::numeric_limits<TestType>::infinity(),
            -std::numeric_limits<TestType>::infinity()}) {
        const TestType good = std::exchange(x.data<TestType>()[place], bad);
        CHECK_FALSE(all_finite(x));
        x.data<TestType>()[place] = good;
      }
    }
    x.fill(double(std::numeric_limits<TestType>::max()));  // finite values with a sum that overflows
    CHECK(all_finite(x));
  }
  CHECK(all_finite(Tensor::zeros({0})));
}

TEMPLATE_TEST_CASE("column sums are added to the values that are there", "[kernels]", float, double) {
  for (const Shape& shape : {Shape{0, 3}, Shape{5, 1}, Shape{7, 13}, Shape{401, 67}}) {
    const Tensor x = random_values(shape, 1, dtype_of<TestType>),
                 sums = random_values({shape[1]}, 2, x.dtype());
    const Tensor expected = sums.to(DType::f64);
    for (Index i = 0; i < x.numel(); ++i)
      expected.data<double>()[i % shape[1]] += double(x.data<TestType>()[i]);
    column_sums(x, sums);
    CHECK(distance(sums, expected) < 10 * tolerance<TestType>);
  }
}

struct SegmentCase {
  std::vector<std::int32_t> bounds;
  Index hidden;
};

// Empty segments at the start, in the middle and alone; a single row; enough rows for two threads.
const SegmentCase kSegmentCases[] = {
    {{0, 0, 3, 3, 4, 4}, 5}, {{0, 1}, 1}, {{0, 0}, 3}, {{0, 100, 377, 701}, 33}};

TEMPLATE_TEST_CASE("segment_mean averages each segment's rows", "[kernels]", float, double) {
  for (const auto& [bounds, hidden] : kSegmentCases) {
    const Index segments = Index(bounds.size()) - 1, rows = bounds.back();
    CAPTURE(segments, rows);
    const Tensor x = random_values({rows, hidden}, 1, dtype_of<TestType>),
                 dy = random_values({segments, hidden}, 2, x.dtype());
    const Tensor offsets = Tensor::of<std::int32_t>({segments + 1}, bounds);
    const Tensor mean = Tensor::zeros({segments, hidden}, DType::f64),
                 dmean = Tensor::zeros({rows, hidden}, DType::f64);
    for (Index s = 0; s < segments; ++s)
      for (Index row = bounds[size_t(s)]; row < bounds[size_t(s) + 1]; ++row)
        for (Index i = 0; i < hidden; ++i) {
          const double length = double(bounds[size_t(s) + 1] - bounds[size_t(s)]);
          mean.data<double>()[s * hidden + i] += double(x.data<TestType>()[row * hidden + i]) / length;
          dmean.data<double>()[row * hidden + i] = double(dy.data<TestType>()[s * hidden + i]) / length;
        }
    const Tensor y = unwritten({segments, hidden}, x.dtype()), dx = unwritten({rows, hidden}, x.dtype());
    segment_mean(x, offsets, y);
    CHECK(distance(y, mean) < tolerance<TestType>);
    segment_mean_backward(dy, offsets, dx, Write::assign);
    CHECK(distance(dx, dmean) < tolerance<TestType>);
    segment_mean_backward(dy, offsets, dx, Write::accumulate);
    CHECK(distance(dx, plus(dmean, dmean)) < tolerance<TestType>);
  }
}

TEMPLATE_TEST_CASE("segment_max takes each segment's largest and sends the gradient there", "[kernels]",
                   float, double) {
  for (const auto& [bounds, hidden] : kSegmentCases) {
    const Index segments = Index(bounds.size()) - 1, rows = bounds.back();
    CAPTURE(segments, rows);
    const Tensor x = random_values({rows, hidden}, 1, dtype_of<TestType>);
    for (TestType& value : x.span<TestType>()) value = std::round(value * 2) - 4;  // ties, mostly below 0
    const Tensor dy = random_values({segments, hidden}, 2, x.dtype()),
                 dx = random_values({rows, hidden}, 3, x.dtype());
    const Tensor offsets = Tensor::of<std::int32_t>({segments + 1}, bounds);
    const Tensor largest = Tensor::zeros({segments, hidden}, DType::f64), expected = dx.to(DType::f64);
    const Tensor first = Tensor::empty({segments, hidden}, DType::i32);
    first.fill(-1);
    for (Index s = 0; s < segments; ++s)
      for (Index i = 0; i < hidden; ++i) {
        std::int32_t& winner = first.data<std::int32_t>()[s * hidden + i];
        for (std::int32_t row = bounds[size_t(s)]; row < bounds[size_t(s) + 1]; ++row)
          if (winner < 0 || x.data<TestType>()[row * hidden + i] > x.data<TestType>()[winner * hidden + i])
            winner = row;
        if (winner < 0) continue;
        largest.data<double>()[s * hidden + i] = double(x.data<TestType>()[winner * hidden + i]);
        expected.data<double>()[winner * hidden + i] += double(dy.data<TestType>()[s * hidden + i]);
      }
    const Tensor y = unwritten({segments, hidden}, x.dtype()),
                 winners = Tensor::empty({segments, hidden}, DType::i32);
    segment_max(x, offsets, y, winners);
    CHECK(distance(y, largest) == 0);
    CHECK(same_bits(winners, first));
    segment_max_backward(dy, winners, dx);
    CHECK(distance(dx, expected) < tolerance<TestType>);
  }
}

TEST_CASE("segments must cover the rows", "[kernels]") {
  const Tensor x = Tensor::zeros({4, 3}), y = Tensor::zeros({2, 3});
  for (const std::vector<std::int32_t>& wrong : {std::vector<std::int32_t>{0, 2, 5}, {1, 2, 4}, {0, 3, 2}})
    CHECK_THROWS_WITH(segment_mean(x, Tensor::of<std::int32_t>({3}, wrong), y),
                      "segment_mean: offsets must rise from 0 to 4");
  CHECK_THROWS_WITH(segment_mean(x, Tensor::of<std::int32_t>({2}, {0, 4}), y),
                    "segment_mean: y is f32 [2, 3], expected f32 [1, 3]");
}

}  // namespace
}  // namespace conclave::kernels

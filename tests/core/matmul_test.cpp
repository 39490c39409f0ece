#include <catch2/catch.hpp>
#include <vector>

#include "core/kernels/matmul.h"
#include "core/kernels/tile.h"
#include "tests/core/reference_activation.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

// a [m, k] b [k, n] in f64, by definition.
Tensor product(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(DType::f64), y = b.to(DType::f64),
               c = Tensor::zeros({a.size(0), b.size(1)}, DType::f64);
  const Index m = a.size(0), k = a.size(1), n = b.size(1);
  for (Index i = 0; i < m; ++i)
    for (Index j = 0; j < n; ++j) {
      const double *row = x.data<double>() + i * k, *column = y.data<double>() + j;
      double sum = 0;
      for (Index l = 0; l < k; ++l) sum += row[l] * column[l * n];
      c.data<double>()[i * n + j] = sum;
    }
  return c;
}

Transpose flag(bool transpose) { return transpose ? Transpose::yes : Transpose::no; }

TEMPLATE_TEST_CASE("matmul agrees with the definition for all transpositions and odd sizes", "[kernels]",
                   float, double) {
  const DType dtype = dtype_of<TestType>;
  struct Size {
    Index m, k, n;
  };
  for (const auto [m, k, n] : {Size{1, 1, 1}, Size{3, 5, 7}, Size{17, 33, 9}, Size{64, 64, 64},
                               Size{70, 65, 130}, Size{0, 4, 3}, Size{4, 3, 0}, Size{4, 0, 3}}) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        CAPTURE(m, k, n, ta, tb);
        const Tensor a = random_values(ta ? Shape{k, m} : Shape{m, k}, 1, dtype);
        const Tensor b = random_values(tb ? Shape{n, k} : Shape{k, n}, 2, dtype);
        const Tensor expected = product(ta ? a.transpose(0, 1) : a, tb ? b.transpose(0, 1) : b);
        const Tensor c = unwritten({m, n}, dtype);
        matmul(a, flag(ta), b, flag(tb), c);
        CHECK(distance(c, expected) < tolerance<TestType>);
        const Tensor sum = random_values({m, n}, 3, dtype), start = sum.clone();
        matmul(a, flag(ta), b, flag(tb), sum, Write::accumulate);
        CHECK(distance(sum, plus(start, expected)) < tolerance<TestType>);
      }
    }
  }
}

TEST_CASE("matmul works on columns of wider matrices and leaves the others unchanged", "[kernels]") {
  const Tensor a = random_values({6, 20}, 1).slice(1, 3, 10), b = random_values({7, 9}, 2).slice(1, 4, 9);
  const Tensor wide = Tensor::zeros({6, 8}, DType::f64);
  matmul(a, Transpose::no, b, Transpose::no, wide.slice(1, 2, 7));
  CHECK(distance(wide.slice(1, 2, 7), product(a, b)) < 1e-12);
  CHECK(distance(wide.slice(1, 0, 2), Tensor::zeros({6, 2})) == 0);
  CHECK(distance(wide.slice(1, 7, 8), Tensor::zeros({6, 1})) == 0);
}

TEST_CASE("matmul says which extents do not chain", "[kernels]") {
  const Tensor a = Tensor::zeros({64, 256}), b = Tensor::zeros({512, 128}), c = Tensor::zeros({64, 128});
  CHECK_THROWS_WITH(matmul(a, Transpose::no, b, Transpose::no, c),
                    "matmul: a [64, 256] and b [512, 128] do not chain: 256 != 512");
  CHECK_THROWS_WITH(matmul(a, Transpose::yes, b, Transpose::no, c),
                    "matmul: a [64, 256]^T and b [512, 128] do not chain: 64 != 512");
  CHECK_THROWS_WITH(matmul(a, Transpose::no, Tensor::zeros({256, 8}), Transpose::no, c),
                    "matmul: c is [64, 128], expected [64, 8]");
  CHECK_THROWS_WITH(matmul(a.reshape({64, 16, 16}), Transpose::no, b, Transpose::no, c),
                    "matmul: a has shape [64, 16, 16], expected 2 dimensions");
  CHECK_THROWS_WITH(matmul(b.transpose(0, 1), Transpose::no, b, Transpose::no, c),
                    "matmul: a [128, 512] has strided columns");
  CHECK_THROWS_AS(matmul(a, Transpose::no, Tensor::zeros({256, 128}, DType::f64), Transpose::no, c), Error);
}

struct Groups {
  std::vector<Index> offsets;
  Index in, out;
};

// Empty groups at the start and in the middle; one group; no rows at all; enough rows for several tasks; and
// groups at the limit up to which a group counts as small, with more columns than one block.
const std::vector<Groups> kGroups{{{0, 0, 5, 5, 12, 12}, 7, 9},
                                  {{0, 33}, 16, 5},
                                  {{0, 0, 0}, 3, 4},
                                  {{0, 300, 301, 777}, 19, 45},
                                  {{0, 64, 64, 65, 82, 120}, 300, 530}};

TEMPLATE_TEST_CASE("grouped_linear gives every group of rows its own weight, bias and activation",
                   "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  for (const auto& [offsets, in, out] : kGroups) {
    const Index rows = offsets.back(), groups = static_cast<Index>(offsets.size()) - 1;
    const Tensor x = random_values({rows, in}, 1, dtype), w = random_values({groups, out, in}, 2, dtype, 0.3);
    const Tensor bias = random_values({groups, out}, 3, dtype);
    std::vector<Tensor> products;
    for (Index g = 0; g < groups; ++g)
      products.push_back(product(x.rows(offsets[size_t(g)], offsets[size_t(g) + 1]),
                                 w.rows(g, g + 1).reshape({out, in}).transpose(0, 1)));
    for (const Activation kind : kAllActivations) {
      for (const bool with_bias : {true, false}) {
        CAPTURE(rows, groups, int(kind), with_bias);
        const Tensor expected = Tensor::zeros({rows, out}, DType::f64), slope = expected.clone();
        for (Index g = 0; g < groups; ++g) {
          const Index begin = offsets[size_t(g)];
          const Tensor& z = products[size_t(g)];
          for (Index i = 0; i < z.numel(); ++i) {
            const double b = with_bias ? double(bias.data<TestType>()[g * out + i % out]) : 0.0;
            const auto [value, derivative] = reference_activation(z.data<double>()[i] + b, kind);
            expected.data<double>()[begin * out + i] = value;
            slope.data<double>()[begin * out + i] = derivative;
          }
        }
        const Tensor y = unwritten({rows, out}, dtype), d = unwritten({rows, out}, dtype);
        grouped_linear(x, offsets, w, with_bias ? bias : Tensor(), kind, y, Tensor());
        CHECK(distance(y, expected) < tolerance<TestType>);
        if (kind == Activation::none) continue;
        y.fill(-7);
        grouped_linear(x, offsets, w, with_bias ? bias : Tensor(), kind, y, d);
        CHECK(distance(y, expected) < tolerance<TestType>);
        CHECK(distance(d, slope) < tolerance<TestType>);
      }
    }
  }
}

TEMPLATE_TEST_CASE("grouped_linear's backward kernels are products per group", "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  for (const auto& [offsets, in, out] : kGroups) {
    const Index rows = offsets.back(), groups = static_cast<Index>(offsets.size()) - 1;
    CAPTURE(rows, groups);
    const Tensor x = random_values({rows, in}, 1, dtype), w = random_values({groups, out, in}, 2, dtype, 0.3);
    const Tensor dz = random_values({rows, out}, 4, dtype);
    const Tensor dx = Tensor::zeros({rows, in}, DType::f64);
    const Tensor dw = Tensor::zeros({groups, out, in}, DType::f64),
                 db = Tensor::zeros({groups, out}, DType::f64);
    for (Index g = 0; g < groups; ++g) {
      const Index begin = offsets[size_t(g)], end = offsets[size_t(g) + 1];
      const Tensor up = dz.rows(begin, end);
      dx.rows(begin, end).copy_from(product(up, w.rows(g, g + 1).reshape({out, in})));
      dw.rows(g, g + 1).copy_from(product(up.transpose(0, 1), x.rows(begin, end)));
      for (Index i = 0; i < up.numel(); ++i)
        db.data<double>()[g * out + i % out] += double(up.data<TestType>()[i]);
    }
    const double bound = 10 * tolerance<TestType>;  // sums over several hundred rows
    const Tensor got = unwritten({rows, in}, dtype);
    grouped_linear_backward_input(dz, offsets, w, got, Write::assign);
    CHECK(distance(got, dx) < bound);
    grouped_linear_backward_input(dz, offsets, w, got, Write::accumulate);
    CHECK(distance(got, plus(dx, dx)) < bound);
    const Tensor weights = random_values(dw.shape(), 5, dtype), biases = random_values(db.shape(), 6, dtype);
    const Tensor weights_before = weights.clone(), biases_before = biases.clone();
    grouped_linear_backward_parameters(dz, x, offsets, weights, biases);
    CHECK(distance(weights, plus(weights_before, dw)) < bound);
    CHECK(distance(biases, plus(biases_before, db)) < bound);
    weights.copy_from(weights_before);
    grouped_linear_backward_parameters(dz, x, offsets, weights, Tensor());
    CHECK(distance(weights, plus(weights_before, dw)) < bound);
  }
}

TEST_CASE("grouped_linear names the argument that does not fit", "[kernels]") {
  const Tensor x = Tensor::zeros({4, 3}), w = Tensor::zeros({2, 5, 3}), y = Tensor::zeros({4, 5});
  const std::vector<Index> offsets{0, 1, 4};
  CHECK_THROWS_WITH(grouped_linear(x, offsets, Tensor::zeros({2, 5, 2}), {}, Activation::none, y, {}),
                    "linear: x [4, 3] and weight [2, 5, 2] do not chain: 3 != 2");
  CHECK_THROWS_WITH(grouped_linear(x, offsets, w, {}, Activation::none, Tensor::zeros({4, 6}), {}),
                    "linear: y is f32 [4, 6], expected f32 [4, 5]");
  CHECK_THROWS_WITH(grouped_linear(x, offsets, w, Tensor::zeros({5}), Activation::none, y, {}),
                    "linear: bias is f32 [5], expected f32 [2, 5]");
  for (const std::vector<Index>& wrong : {std::vector<Index>{0, 4}, {0, 5, 4}, {1, 2, 4}, {0, 1, 3}})
    CHECK_THROWS_WITH(grouped_linear(x, wrong, w, {}, Activation::none, y, {}),
                      "linear: offsets must rise from 0 to 4 in 3 entries");
}

TEMPLATE_TEST_CASE("a product with independent rows gives each row the same bits in any batch", "[kernels]",
                   float, double) {
  constexpr DType dtype = dtype_of<TestType>;
  for (const auto& [in, out] : {std::pair<Index, Index>{128, 70}, {300, 33}}) {
    const Tensor x = random_values({500, in}, 1, dtype), weight = random_values({1, out, in}, 2, dtype),
                 bias = random_values({1, out}, 3, dtype), expected = Tensor::empty({500, out}, dtype);
    const auto run = [&](Index first, Index rows, const Tensor& y) {
      const Index offsets[] = {0, rows};
      grouped_linear(x.rows(first, first + rows).clone(), offsets, weight, bias, Activation::gelu, y,
                     Tensor(), RowBits::independent);
    };
    run(0, 500, expected);
    for (const Index rows : {1, 2, 7, 63, 64, 65, 130, 333}) {
      const Tensor y = Tensor::empty({rows, out}, dtype);
      run(101, rows, y);
      CHECK(same_bits(y, expected.rows(101, 101 + rows)));
    }
    const Tensor blas = Tensor::empty({500, out}, dtype);
    const Index offsets[] = {0, 500};
    grouped_linear(x, offsets, weight, bias, Activation::gelu, blas, Tensor());
    CHECK(distance(blas, expected) < (dtype == DType::f32 ? 1e-4 : 1e-12));
  }
}

TEMPLATE_TEST_CASE("a packed weight gives the same bits as an unpacked one", "[kernels]", float, double) {
  constexpr DType dtype = dtype_of<TestType>;
  const std::vector<std::vector<Index>> divisions{{0, 1},   {0, 7},          {0, 64},       {0, 65}, {0, 130},
                                                  {0, 500}, {0, 0, 3, 3, 3}, {0, 5, 5, 90}, {0, 0}};
  for (const Index in : {0, 1, 37, 256, 300})
    for (const Index out : {1, 4, 7, 8, 15, 24, 33, 48, 70, 300})
      for (const std::vector<Index>& offsets : divisions) {
        const Index rows = offsets.back(), groups = static_cast<Index>(offsets.size()) - 1;
        CAPTURE(in, out, rows, groups);
        const Tensor x = random_values({rows, in}, 1, dtype),
                     weight = random_values({groups, out, in}, 2, dtype),
                     bias = random_values({groups, out}, 3, dtype),
                     panels = unwritten(panels_shape(weight), dtype);
        pack_weight(weight, panels);
        for (const bool whole : {false, true}) {
          const auto run = [&](const Tensor& packed, const Tensor& derivative) {
            const Tensor y = unwritten({rows, out}, dtype);
            grouped_linear(x, offsets, weight, whole ? bias : Tensor(),
                           whole ? Activation::gelu : Activation::none, y, derivative, RowBits::independent,
                           packed);
            return y;
          };
          const Tensor slope = unwritten({rows, out}, dtype), expected = slope.clone();
          CHECK(same_bits(run(panels, whole ? slope : Tensor()), run(Tensor(), whole ? expected : Tensor())));
          if (whole) CHECK(same_bits(slope, expected));
        }
      }
}

TEST_CASE("a packed weight has its own shape", "[kernels]") {
  const Tensor x = Tensor::zeros({4, 3}), weight = Tensor::zeros({2, 17, 3}), y = Tensor::zeros({4, 17});
  const std::vector<Index> offsets{0, 1, 4};
  CHECK(panels_shape(weight) == Shape{2, 16, 3});
  CHECK_THROWS_WITH(pack_weight(weight, Tensor::zeros({2, 17, 3})),
                    "pack_weight: panels is f32 [2, 17, 3], expected f32 [2, 16, 3]");
  CHECK_THROWS_WITH(grouped_linear(x, offsets, weight, {}, Activation::none, y, {}, RowBits::independent,
                                   Tensor::zeros({1, 16, 3})),
                    "linear: panels is f32 [1, 16, 3], expected f32 [2, 16, 3]");
}

TEMPLATE_TEST_CASE("tiles of wide vectors add up the same sums in the same order", "[kernels]", float,
                   double) {
  constexpr DType dtype = dtype_of<TestType>;
  for (const Index m : {1, 6, 11, 12, 13, 25})
    for (const Index k : {1, 7, 300})
      for (const bool accumulate : {false, true}) {
        CAPTURE(m, k, accumulate);
        constexpr Index n = 3 * kTileColumns<TestType>;
        const Tensor a = random_values({m, k}, 1, dtype), b = random_values({k, n}, 2, dtype),
                     c = random_values({m, n}, 3, dtype), expected = c.clone();
        tiles::narrow_product(m, n, k, a.data<TestType>(), k, Index{1}, b.data<TestType>(), n,
                              expected.data<TestType>(), n, accumulate);
        tile_product(m, n, k, a.data<TestType>(), k, Index{1}, b.data<TestType>(), n, c.data<TestType>(), n,
                     accumulate);
        CHECK(same_bits(c, expected));
      }
}

}  // namespace
}  // namespace conclave::kernels

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/cuda/blas.h"
#include "core/cuda/launch.h"
#include "core/kernels/activation.h"
#include "core/kernels/matmul.h"
#include "tests/core/reference_activation.h"
#include "tests/cuda_emulator/precision_scope.h"
#include "tests/cuda_emulator/twins.h"

namespace conclave {
namespace {

using namespace kernels;
using Tensors = std::vector<Tensor>;

TEMPLATE_TEST_CASE("matmul on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(1);
  for (int round = 0; round < 6; ++round) {
    const Index m = round == 0 ? 0 : shapes.between(1, 40), n = round == 1 ? 1 : shapes.between(1, 70);
    const Index k = round == 2 ? 0 : round == 3 ? 1 : shapes.between(1, 50);
    for (const bool ta : {false, true})
      for (const bool tb : {false, true})
        for (const Write mode : {Write::assign, Write::accumulate}) {
          const Shape shape{m, n};
          compare_twins<T>({random_values(ta ? Shape{k, m} : Shape{m, k}, 1, kType),
                            random_values(tb ? Shape{n, k} : Shape{k, n}, 2, kType),
                            mode == Write::assign ? unwritten(shape, kType) : random_values(shape, 3, kType)},
                           [&](const Tensors& t) {
                             matmul(t[0], ta ? Transpose::yes : Transpose::no, t[1],
                                    tb ? Transpose::yes : Transpose::no, t[2], mode);
                           });
        }
  }
}

TEMPLATE_TEST_CASE("matmul on the device accepts views with strided rows", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  // All three are columns of one tensor. They begin at odd places and are interleaved.
  compare_twins<T>({random_values({12, 31}, 1, kType)}, [&](const Tensors& t) {
    for (const Index k : {0, 7}) {
      const auto view = [&](Index rows, Index begin, Index columns) {
        return t[0].rows(0, rows).slice(1, begin, begin + columns);
      };
      const Tensor a = view(12, 1, k), b = view(11, 8, k), c = view(12, 19, 11);
      matmul(a, Transpose::no, b, Transpose::yes, c);
      matmul(a.rows(3, 4), Transpose::no, b, Transpose::yes, c.rows(3, 4), Write::accumulate);
    }
  });
}

// [groups + 1] from 0 to `rows`, some of the groups empty.
std::vector<Index> random_offsets(Shapes& shapes, Index groups, Index rows) {
  const Tensor offsets = shapes.offsets(groups, rows);
  const auto values = offsets.span<std::int32_t>();
  return {values.begin(), values.end()};
}

struct Sizes {
  std::vector<Index> offsets;
  Index in, out;
  bool thoroughly = false;  // tests all combinations of options
};
std::vector<Sizes> sizes_of_groups() {
  Shapes shapes(2);
  std::vector<Index> many(261);  // more groups than one launch takes
  for (std::size_t g = 0; g < many.size(); ++g) many[g] = static_cast<Index>(g / 20);
  return {{{0, 13}, 20, 32, true},
          {{0, 70}, 9, 11},
          {{0, 5}, 7, 0},
          {{0, 0}, 7, 3},
          {{0, 9, 9, 12}, 0, 5},
          {{0, 6, 6, 11}, 17, 70, true},
          {random_offsets(shapes, 20, 60), 18, 12},
          {{0, 3, 3, 70, 71, 71}, 12, 8, true},  // too many rows for the kernel for small groups
          {{0, 66, 66, 71}, 5, 7},
          {{0, 66}, 2, 1029, true},  // rows so long that each has a block
          {{0, 66}, 2, 1032, true},
          {std::move(many), 3, 5}};
}

TEMPLATE_TEST_CASE("grouped_linear on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  for (const auto& [offsets, in, out, thoroughly] : sizes_of_groups()) {
    const Index rows = offsets.back(), groups = static_cast<Index>(offsets.size()) - 1;
    INFO(groups << " groups of " << rows << " rows, in " << in << ", out " << out);
    const Tensor x = random_values({rows, in}, 1, kType), weight = random_values({groups, out, in}, 2, kType),
                 bias = random_values({groups, out}, 3, kType), y = unwritten({rows, out}, kType);
    for (const Activation kind : kAllActivations)
      for (const bool with_bias : {false, true})
        for (const bool with_derivative : {false, true}) {
          if (!thoroughly && (kind != Activation::gelu || with_bias != with_derivative)) continue;
          compare_twins<T>(
              {y, x, weight, with_bias ? bias : Tensor{},
               with_derivative ? unwritten({rows, out}, kType) : Tensor{}},
              [&](const Tensors& t) { grouped_linear(t[1], offsets, t[2], t[3], kind, t[0], t[4]); });
        }
  }
}

TEMPLATE_TEST_CASE("gradients of grouped_linear on the device agree with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  for (const auto& [offsets, in, out, thoroughly] : sizes_of_groups()) {
    const Index rows = offsets.back(), groups = static_cast<Index>(offsets.size()) - 1;
    INFO(groups << " groups of " << rows << " rows, in " << in << ", out " << out);
    const Tensor x = random_values({rows, in}, 1, kType), dz = random_values({rows, out}, 2, kType),
                 // so small that sums of 1,032 products have no larger rounding errors than the others
        weight = random_values({groups, out, in}, 3, kType, out > 1000 ? 0.1 : 1.0),
                 bias = random_values({groups, out}, 4, kType);
    for (const Write mode : {Write::assign, Write::accumulate})
      if (in > 0)
        compare_twins<T>(
            {dz, mode == Write::assign ? unwritten({rows, in}, kType) : x, weight},
            [&](const Tensors& t) { grouped_linear_backward_input(t[0], offsets, t[2], t[1], mode); });
    for (const bool with_bias : {false, true})
      if (in > 0 || with_bias)
        compare_twins<T>({dz, x, weight, with_bias ? bias : Tensor{}}, [&](const Tensors& t) {
          grouped_linear_backward_parameters(t[0], t[1], offsets, t[2], t[3]);
        });
  }
}

TEMPLATE_TEST_CASE("RowBits::independent: a row's bits do not depend on other rows on the device", "", float,
                   double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  constexpr Index kRows = 70, kIn = 37, kOut = 66;
  const Tensor x = conclave::cuda::to_device(random_values({kRows, kIn}, 1, kType)),
               weight = conclave::cuda::to_device(random_values({1, kOut, kIn}, 2, kType)),
               bias = conclave::cuda::to_device(random_values({1, kOut}, 3, kType));
  const auto product = [&](const Tensor& rows) {
    const Tensor y = conclave::cuda::empty_on_device({rows.size(0), kOut}, kType);
    const std::vector<Index> offsets{0, rows.size(0)};
    grouped_linear(rows, offsets, weight, bias, Activation::gelu, y, {}, RowBits::independent);
    return conclave::cuda::to_host(y);
  };
  const Tensor all = product(x);
  for (const Index first : {0, 5, 69})
    for (const Index rows : {1, 3, 65})
      if (first + rows <= kRows)
        CHECK(same_bits(product(x.rows(first, first + rows)), all.rows(first, first + rows)));
}

Tensor rounded_to_bf16(const Tensor& values) { return values.to(DType::bf16).to(DType::f64); }

Tensor magnitudes(const Tensor& values) {
  const Tensor result = values.to(DType::f64);
  for (double& value : result.span<double>()) value = std::fabs(value);
  return result;
}

/// Compares operation(a, b, c), which adds products of a's and b's elements to c, on the device with f64 on
/// the processor. The error may be that of rounding to bf16, or of truncating to TF32: on an H200, some of
/// cuBLASLt's kernels round to TF32 and some truncate. With bf16, where the project's own kernels round the
/// operands, the result must also be close to that of f64 on rounded operands.
template <class Operation>
void check_rounding(const Tensor& a, const Tensor& b, const Tensor& c, Operation operation) {
  const auto on_device = [&] {
    const Tensor result = conclave::cuda::to_device(c);
    operation(conclave::cuda::to_device(a), conclave::cuda::to_device(b), result);
    return conclave::cuda::to_host(result);
  };
  const auto in_f64 = [&](const Tensor& left, const Tensor& right, const Tensor& start) {
    const Tensor result = start.to(DType::f64);
    operation(left, right, result);
    return result;
  };
  const Tensor exact = in_f64(a.to(DType::f64), b.to(DType::f64), c);
  const Tensor terms = in_f64(magnitudes(a), magnitudes(b), magnitudes(c));
  CHECK(distance(on_device(), exact) <= tolerance<float>);
  for (const Precision chosen : {Precision::tf32, Precision::bf16}) {
    INFO(name_of(chosen));
    const PrecisionScope scope(chosen);
    const Tensor actual = on_device();
    if (chosen == Precision::bf16)
      CHECK(distance(actual, in_f64(rounded_to_bf16(a), rounded_to_bf16(b), c)) <= tolerance<float>);
    double worst = 0;  // largest error, relative to the sum of the terms' magnitudes
    for (Index i = 0; i < actual.numel(); ++i)
      worst = std::max(
          worst, std::fabs(actual.data<float>()[i] - exact.data<double>()[i]) / terms.data<double>()[i]);
    const double most =
        std::exp2(chosen == Precision::bf16 ? -8 : -10);  // half a unit of 8 bits; a unit of 11 bits
    CHECK(worst <= 2.01 * most);                          // an error for each of the two factors
    CHECK(worst > 0.005 * most);                          // else nothing was rounded
  }
  CHECK(emulator::take_report() == "");
}

TEST_CASE("products of f32 are rounded only by the chosen precision") {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      check_rounding(random_values(ta ? Shape{50, 41} : Shape{41, 50}, 1, DType::f32),
                     random_values(tb ? Shape{30, 50} : Shape{50, 30}, 2, DType::f32),
                     random_values({41, 30}, 3, DType::f32),
                     [&](const Tensor& a, const Tensor& b, const Tensor& c) {
                       matmul(a, ta ? Transpose::yes : Transpose::no, b, tb ? Transpose::yes : Transpose::no,
                              c, Write::accumulate);
                     });
  // Views with odd offsets.
  check_rounding(
      random_values({13, 21}, 1, DType::f32), random_values({11, 21}, 2, DType::f32),
      random_values({13, 11}, 3, DType::f32), [&](const Tensor& a, const Tensor& b, const Tensor& c) {
        matmul(a.slice(1, 3, 20), Transpose::no, b.slice(1, 3, 20), Transpose::yes, c, Write::accumulate);
      });
}

TEST_CASE("precision rounds the products of a layer but not its bias") {
  const std::vector<Index> offsets{0, 3, 3, 70, 71, 71};  // too many rows for the kernel for small groups
  for (const auto& [in, out] : {std::pair<Index, Index>{16, 8}, {13, 11}}) {
    INFO("in " << in << ", out " << out);
    const Tensor x = random_values({71, in}, 1, DType::f32), dz = random_values({71, out}, 2, DType::f32),
                 weight = random_values({5, out, in}, 3, DType::f32),
                 bias = random_values({5, out}, 4, DType::f32);
    for (const bool with_bias : {false, true})
      check_rounding(x, weight, Tensor::zeros({71, out}),
                     [&](const Tensor& a, const Tensor& b, const Tensor& c) {
                       const Tensor added =
                           c.device() == Device::cuda ? conclave::cuda::to_device(bias) : bias.to(c.dtype());
                       grouped_linear(a, offsets, b, with_bias ? added : Tensor{}, Activation::none, c, {});
                     });
    check_rounding(dz, weight, x, [&](const Tensor& a, const Tensor& b, const Tensor& c) {
      grouped_linear_backward_input(a, offsets, b, c, Write::accumulate);
    });
    check_rounding(dz, x, weight, [&](const Tensor& a, const Tensor& b, const Tensor& c) {
      grouped_linear_backward_parameters(a, b, offsets, c, {});
    });
    const auto bias_gradient = [&](Precision chosen) {
      const PrecisionScope scope(chosen);
      const Tensor dbias = conclave::cuda::to_device(bias);
      grouped_linear_backward_parameters(conclave::cuda::to_device(dz), conclave::cuda::to_device(x), offsets,
                                         conclave::cuda::to_device(weight), dbias);
      return conclave::cuda::to_host(dbias);
    };
    const Tensor unrounded = bias_gradient(Precision::f32);
    for (const Precision chosen : {Precision::bf16, Precision::tf32})
      CHECK(distance(bias_gradient(chosen), unrounded) <= tolerance<float>);
  }
}

TEST_CASE("small groups and independent rows are computed in f32 at any precision") {
  const Tensor x = conclave::cuda::to_device(random_values({71, 12}, 1, DType::f32)),
               weight = conclave::cuda::to_device(random_values({2, 8, 12}, 2, DType::f32));
  for (const auto& [offsets, bits] : {std::pair<std::vector<Index>, RowBits>{{0, 20, 50}, RowBits::fastest},
                                      {{0, 1, 71}, RowBits::independent}}) {
    const auto product = [&](Precision chosen) {
      const PrecisionScope scope(chosen);
      const Tensor y = conclave::cuda::empty_on_device({offsets.back(), 8});
      grouped_linear(x.rows(0, offsets.back()), offsets, weight, {}, Activation::none, y, {}, bits);
      return conclave::cuda::to_host(y);
    };
    for (const Precision chosen : {Precision::tf32, Precision::bf16})
      CHECK(same_bits(product(chosen), product(Precision::f32)));
  }
}

TEST_CASE("rounding f32 to bf16 on the device agrees with the processor") {
  using Limits = std::numeric_limits<float>;
  const float tie = 1 + 0x1p-8F, other_tie = 1 + 3 * 0x1p-8F;
  const Tensor special =
      Tensor::of<float>({12}, {tie, -tie, other_tie, -other_tie, std::nextafter(tie, 2.0F),
                               std::nextafter(tie, 0.0F), Limits::max(), Limits::infinity(),
                               -Limits::infinity(), Limits::denorm_min(), -0.0F, 0x1p-133F * 3});
  for (const Index columns : {1, 4, 8, 13, 28, 64})
    for (const bool off_bounds : {false, true})
      for (const Index apart : {0, 3, 4}) {
        INFO(columns << " columns, " << apart << " apart" << (off_bounds ? ", off bounds" : ""));
        const Tensor values = random_values({9, columns + apart}, 1, DType::f32);
        for (Index i = 0; i < 12 && i < values.numel(); ++i)
          values.data<float>()[i] = special.data<float>()[i];
        const Tensor from = off_bounds ? to_device_off_bounds(values) : conclave::cuda::to_device(values);
        const Index stride = conclave::cuda::bf16_stride(columns);
        const Tensor to = conclave::cuda::empty_on_device({9, stride}, DType::bf16);
        conclave::cuda::round_to_bf16("rounding", {from.data<float>(), 9, columns, columns + apart},
                                      to.data<BFloat16>());
        const Tensor actual = conclave::cuda::to_host(to), expected = Tensor::zeros({9, stride}, DType::bf16);
        for (Index i = 0; i < 9 * columns; ++i)
          expected.data<BFloat16>()[i / columns * stride + i % columns] =
              BFloat16(values.data<float>()[i / columns * (columns + apart) + i % columns]);
        CHECK(same_bits(actual, expected));
      }
  const Tensor nothing = conclave::cuda::to_device(unwritten({1, 1}, DType::f32)),
               to = conclave::cuda::empty_on_device({1, 8}, DType::bf16);
  conclave::cuda::round_to_bf16("rounding", {nothing.data<float>(), 1, 1, 1}, to.data<BFloat16>());
  CHECK(std::isnan(static_cast<float>(conclave::cuda::to_host(to).data<BFloat16>()[0])));
  CHECK(emulator::take_report() == "");
}

TEST_CASE("a product of tensors on different devices is refused") {
  const Tensor host = Tensor::zeros({3, 3}), device = conclave::cuda::to_device(host);
  CHECK_THROWS_WITH(matmul(device, Transpose::no, host, Transpose::no, device),
                    "matmul: some tensors are on cuda, others on cpu; copy all to one of them");
}

}  // namespace
}  // namespace conclave

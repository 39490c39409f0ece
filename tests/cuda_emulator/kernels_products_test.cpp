#include <cmath>

#include "core/cuda/blas.h"
#include "core/cuda/launch.h"
#include "core/kernels/activation.h"
#include "core/kernels/matmul.h"
#include "tests/cuda_emulator/twins.h"

namespace conclave {
namespace {

using namespace kernels;
using Tensors = std::vector<Tensor>;

TEMPLATE_TEST_CASE("matmul on the device does what it does on the processor", "", float, double) {
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

TEMPLATE_TEST_CASE("matmul on the device takes views whose rows are strided", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  // All three are columns of one tensor, begin at odd places, and are interleaved.
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
  bool thoroughly = false;  // all combinations of what can be there
};
std::vector<Sizes> sizes_of_groups() {
  Shapes shapes(2);
  std::vector<Index> many(261);  // more than one launch takes
  for (std::size_t g = 0; g < many.size(); ++g) many[g] = static_cast<Index>(g / 20);
  return {{{0, 13}, 20, 32, true},
          {{0, 70}, 9, 11},
          {{0, 5}, 7, 0},
          {{0, 0}, 7, 3},
          {{0, 9, 9, 12}, 0, 5},
          {{0, 6, 6, 11}, 17, 70, true},
          {random_offsets(shapes, 20, 60), 18, 12},
          {{0, 3, 3, 70, 71, 71}, 12, 8, true},  // too many rows for one kernel for all
          {{0, 66, 66, 71}, 5, 7},
          {std::move(many), 3, 5}};
}

TEMPLATE_TEST_CASE("grouped_linear on the device does what it does on the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  for (const auto& [offsets, in, out, thoroughly] : sizes_of_groups()) {
    const Index rows = offsets.back(), groups = static_cast<Index>(offsets.size()) - 1;
    INFO(groups << " groups of " << rows << " rows, in " << in << ", out " << out);
    const Tensor x = random_values({rows, in}, 1, kType), weight = random_values({groups, out, in}, 2, kType),
                 bias = random_values({groups, out}, 3, kType), y = unwritten({rows, out}, kType);
    for (const Activation kind : {Activation::none, Activation::relu, Activation::gelu, Activation::silu})
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

TEMPLATE_TEST_CASE("grouped_linear's gradients on the device are those on the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  for (const auto& [offsets, in, out, thoroughly] : sizes_of_groups()) {
    const Index rows = offsets.back(), groups = static_cast<Index>(offsets.size()) - 1;
    INFO(groups << " groups of " << rows << " rows, in " << in << ", out " << out);
    const Tensor x = random_values({rows, in}, 1, kType), dz = random_values({rows, out}, 2, kType),
                 weight = random_values({groups, out, in}, 3, kType),
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

TEMPLATE_TEST_CASE("a row's bits do not depend on the others on the device, where they should not", "", float,
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

TEST_CASE("products of f32 are rounded to TF32 where that is allowed, and nowhere else") {
  const Tensor a = random_values({40, 50}, 1, DType::f32), b = random_values({50, 30}, 2, DType::f32);
  const Tensor exact = Tensor::empty({40, 30});
  matmul(a, Transpose::no, b, Transpose::no, exact);
  const auto error = [&] {
    const Tensor c = conclave::cuda::empty_on_device({40, 30});
    matmul(conclave::cuda::to_device(a), Transpose::no, conclave::cuda::to_device(b), Transpose::no, c);
    return distance(conclave::cuda::to_host(c), exact);
  };
  CHECK(error() < 1e-5);
  conclave::cuda::set_precision(conclave::cuda::Precision::tf32);
  const double rounded = error();
  conclave::cuda::set_precision(conclave::cuda::Precision::f32);
  CHECK(rounded > 1e-4);
  CHECK(rounded < 1e-2);
  CHECK(error() < 1e-5);
}

TEST_CASE("groups without rows cost nothing") {
  const Tensor x = conclave::cuda::to_device(random_values({70, 9}, 1, DType::f32)),
               weight = conclave::cuda::to_device(random_values({4, 5, 9}, 2, DType::f32)),
               y = conclave::cuda::empty_on_device({70, 5});
  const auto launches = [&](const std::vector<Index>& offsets) {
    const std::size_t before = emulator::counters().launches;
    const Tensor rows = x.rows(0, offsets.back());
    grouped_linear(rows, offsets, weight, {}, Activation::none, y.rows(0, offsets.back()), {});
    grouped_linear_backward_parameters(y.rows(0, offsets.back()), rows, offsets, weight, {});
    conclave::cuda::check(cudaStreamSynchronize(nullptr), "waiting");
    return emulator::counters().launches - before;
  };
  CHECK(launches({0, 0, 0, 0, 0}) == 0);
  CHECK(launches({0, 0, 70, 70, 70}) == 2);
  CHECK(launches({0, 1, 1, 69, 70}) == 6);
  // By one kernel for all, what is no sum is not even added to: -0 + 0 is 0.
  const Tensor gradient = conclave::cuda::to_device(Tensor::zeros({4, 5, 9}));
  kernels::scale(gradient, -1, gradient);
  const std::vector<Index> offsets{0, 0, 3, 3, 6};
  grouped_linear_backward_parameters(y.rows(0, 6), x.rows(0, 6), offsets, gradient, {});
  const Tensor result = conclave::cuda::to_host(gradient);
  for (const Index group : {0, 2}) CHECK(std::signbit(result.data<float>()[group * 45 + 7]));
  CHECK(emulator::take_report() == "");
}

TEST_CASE("products neither allocate nor ask for algorithms once their shapes are known") {
  const Tensor a = conclave::cuda::to_device(random_values({8, 8}, 1, DType::f32)),
               c = conclave::cuda::empty_on_device({8, 8});
  const auto product = [&](Index rows) {
    matmul(a.rows(0, rows), Transpose::no, a, Transpose::yes, c.rows(0, rows));
  };
  product(8);
  const emulator::Counters before = emulator::counters();
  for (int again = 0; again < 3; ++again) product(8);
  CHECK(emulator::counters().allocations == before.allocations);
  CHECK(emulator::counters().algorithms == before.algorithms);
  product(7);
  CHECK(emulator::counters().allocations == before.allocations);
  CHECK(emulator::counters().algorithms == before.algorithms + 1);
}

TEST_CASE("a product of tensors that are not all on the device is refused") {
  const Tensor host = Tensor::zeros({3, 3}), device = conclave::cuda::to_device(host);
  CHECK_THROWS_WITH(matmul(device, Transpose::no, host, Transpose::no, device),
                    "matmul: some tensors are on cuda, others on cpu; copy all to one of them");
}

}  // namespace
}  // namespace conclave

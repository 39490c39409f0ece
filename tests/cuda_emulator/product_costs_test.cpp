// Costs of products on the host: launches, allocations and requests to cuBLASLt. Only the emulated device
// counts them.
#include <catch2/catch.hpp>

#include <cmath>
#include <vector>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "core/kernels/activation.h"
#include "core/kernels/matmul.h"
#include "tests/core/values.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/cuda_emulator/precision_scope.h"

namespace conclave {
namespace {

using namespace kernels;

TEST_CASE("groups without rows cause no launches") {
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
  {
    const PrecisionScope scope(Precision::bf16);  // rounds two matrices in each call, for all groups at once
    CHECK(launches({0, 0, 0, 0, 0}) == 0);
    CHECK(launches({0, 1, 1, 69, 70}) == 6 + 4);
  }
  // The kernel for small groups leaves the gradients of empty groups untouched: adding 0 would turn -0 into
  // 0.
  const Tensor gradient = conclave::cuda::to_device(Tensor::zeros({4, 5, 9}));
  kernels::scale(gradient, -1, gradient);
  const std::vector<Index> offsets{0, 0, 3, 3, 6};
  grouped_linear_backward_parameters(y.rows(0, 6), x.rows(0, 6), offsets, gradient, {});
  const Tensor result = conclave::cuda::to_host(gradient);
  for (const Index group : {0, 2}) CHECK(std::signbit(result.data<float>()[group * 45 + 7]));
  CHECK(emulator::take_report() == "");
}

TEST_CASE("products of known shapes neither allocate nor request algorithms") {
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
  const PrecisionScope scope(Precision::bf16);
  product(8);
  CHECK(emulator::counters().algorithms == before.algorithms + 2);
  const emulator::Counters then = emulator::counters();
  product(8);
  CHECK(emulator::counters().allocations == then.allocations);
  CHECK(emulator::counters().algorithms == then.algorithms);
}

TEST_CASE("products with similar numbers of rows share an algorithm if it fits") {
  const Tensor values = conclave::cuda::to_device(random_values({104, 8}, 1, DType::f32)),
               result = conclave::cuda::empty_on_device({104, 8});
  const auto asked = [&](Index rows, bool summed) {
    const std::size_t before = emulator::counters().algorithms;
    const Tensor some = values.rows(0, rows);
    if (summed)  // sums over the rows
      matmul(some, Transpose::yes, some, Transpose::no, result.rows(0, 8));
    else
      matmul(some, Transpose::no, values.rows(0, 8), Transpose::no, result.rows(0, rows));
    conclave::cuda::check(cudaStreamSynchronize(nullptr), "waiting");
    return emulator::counters().algorithms - before;
  };
  CHECK(asked(97, false) == 1);
  CHECK(asked(103, false) == 0);
  CHECK(asked(104, false) == 0);
  CHECK(asked(99, false) == 1);  // the emulated library refuses one number of columns in five
  CHECK(asked(96, false) == 1);
  CHECK(asked(97, true) == 1);
  CHECK(asked(104, true) == 0);
  CHECK(emulator::take_report() == "");
}

}  // namespace
}  // namespace conclave

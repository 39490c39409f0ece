// Kernels divide their work among threads; the result must not depend on the number of threads.
#include <catch2/catch.hpp>
#include <functional>
#include <vector>

#include "core/kernels/activation.h"
#include "core/kernels/adamw.h"
#include "core/kernels/attention.h"
#include "core/kernels/dropout.h"
#include "core/kernels/embedding.h"
#include "core/kernels/hinge.h"
#include "core/kernels/layer_norm.h"
#include "core/kernels/lstm.h"
#include "core/kernels/matmul.h"
#include "core/kernels/permutation.h"
#include "core/kernels/reduction.h"
#include "core/kernels/softmax.h"
#include "core/kernels/squared_error.h"
#include "core/random.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

struct Threads {
  explicit Threads(int count) : before(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before); }
  int before;
};

// `compute` returns all tensors that it has written.
void check_same_bits(const std::function<std::vector<Tensor>()>& compute) {
  std::vector<Tensor> alone;
  {
    const Threads one(1);
    alone = compute();
  }
  for (const int count : {2, 3}) {
    const Threads several(count);
    const std::vector<Tensor> together = compute();
    for (std::size_t i = 0; i < alone.size(); ++i) {
      CAPTURE(count, i);
      CHECK(same_bits(together[i], alone[i]));
    }
  }
}

// Odd extents, with more elements than the kernels give to one thread.
constexpr Index kRows = 701, kHidden = 75;

TEMPLATE_TEST_CASE("sums have the same bits on any number of threads", "[kernels]", float, double) {
  const Tensor x = random_values({kRows, kHidden}, 1, dtype_of<TestType>);
  check_same_bits([&] {
    const Tensor columns = Tensor::zeros({kHidden}, x.dtype());
    column_sums(x, columns);
    return std::vector{Tensor::of<double>({2}, {sum(x), sum_of_squares(x)}), columns};
  });
}

TEMPLATE_TEST_CASE("grouped products agree to rounding on any number of threads", "[kernels]", float,
                   double) {
  // The bits may differ: the size of a block depends on the number of threads, and BLAS' rounding on the
  // size.
  const DType dtype = dtype_of<TestType>;
  const std::vector<Index> offsets{0, 3, 3, 400, kRows};
  const Tensor x = random_values({kRows, kHidden}, 1, dtype),
               weight = random_values({4, 53, kHidden}, 2, dtype);
  const Tensor dz = random_values({kRows, 53}, 4, dtype);
  const auto compute = [&](int threads) {
    const Threads scope(threads);
    const Tensor y = unwritten({kRows, 53}, dtype), dx = unwritten(x.shape(), dtype);
    const Tensor dweight = Tensor::zeros(weight.shape(), dtype);
    grouped_linear(x, offsets, weight, Tensor(), Activation::none, y, Tensor());
    grouped_linear_backward_input(dz, offsets, weight, dx, Write::assign);
    grouped_linear_backward_parameters(dz, x, offsets, dweight, Tensor());
    return std::vector{y, dx, dweight};
  };
  const std::vector<Tensor> alone = compute(1);
  for (const int threads : {2, 3}) {
    const std::vector<Tensor> together = compute(threads);
    for (std::size_t i = 0; i < alone.size(); ++i)
      CHECK(distance(together[i], alone[i]) < 10 * tolerance<TestType>);
  }
}

TEMPLATE_TEST_CASE("layer_norm has the same bits on any number of threads", "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  const Tensor x = random_values({kRows, kHidden}, 1, dtype), gamma = random_values({kHidden}, 2, dtype);
  const Tensor beta = random_values({kHidden}, 3, dtype), dy = random_values(x.shape(), 4, dtype);
  for (const bool gelu : {false, true})
    check_same_bits([&] {
      const Tensor y = unwritten(x.shape(), dtype), mean = unwritten({kRows}, dtype),
                   rstd = unwritten({kRows}, dtype);
      const Tensor dx = unwritten(x.shape(), dtype), dgamma = Tensor::zeros({kHidden}, dtype),
                   dbeta = dgamma.clone();
      layer_norm(x, gamma, beta, {.gelu = gelu}, y, mean, rstd);
      layer_norm_backward(dy, x, gamma, beta, {.gelu = gelu}, mean, rstd, dx, Write::assign, dgamma, dbeta,
                          unwritten({layer_norm_parts(kRows), 3, kHidden}, dtype));
      return std::vector{y, mean, rstd, dx, dgamma, dbeta};
    });
}

TEMPLATE_TEST_CASE("attention has the same bits on any number of threads", "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  // The single sequence is divided by its queries, because its heads alone are too few for several threads.
  const Tensor several = Tensor::of<std::int32_t>({5}, {0, 100, 101, 231, 300}),
               one = Tensor::of<std::int32_t>({2}, {0, 300});
  const Tensor qkv = random_values({300, 3 * 24}, 1, dtype), dout = random_values({300, 24}, 2, dtype);
  for (const Tensor& offsets : {several, one})
    check_same_bits([&] {
      const AttentionOptions options{3, AttentionMask::causal};
      const Tensor out = unwritten({300, 24}, dtype), lse = unwritten({300, 3}, dtype),
                   dqkv = unwritten(qkv.shape(), dtype);
      attention(qkv, offsets, options, out, lse);
      attention_backward(dout, qkv, offsets, options, out, lse, dqkv);
      return std::vector{out, lse, dqkv};
    });
}

TEMPLATE_TEST_CASE("lstm has the same bits on any number of threads", "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  std::vector<Index> sequences{0};
  for (Index s = 0; s < 200; ++s) sequences.push_back(sequences.back() + s * s % 7);
  const std::vector<Index> groups{0, sequences[13], sequences[13], sequences[170], sequences.back()};
  const Index rows = sequences.back(), hidden = 75, count = 200;
  const Tensor projected = random_values({rows, 4 * hidden}, 1, dtype),
               dy = random_values({rows, hidden}, 2, dtype),
               recurrent = random_values({4, 4 * hidden, hidden}, 3, dtype, 0.3);
  check_same_bits([&] {
    const Tensor y = unwritten({rows, hidden}, dtype), cells = y.clone(),
                 gates = unwritten(projected.shape(), dtype);
    const Tensor order = Tensor::empty({count}, DType::i32), dprojected = gates.clone(),
                 drecurrent = Tensor::zeros(recurrent.shape(), dtype);
    lstm(projected, groups, sequences, recurrent, y, cells, gates, order,
         unwritten(lstm_scratch(recurrent, count), dtype));
    lstm_backward(dy, groups, sequences, recurrent, y, cells, gates, order, dprojected, drecurrent,
                  unwritten(lstm_backward_scratch(recurrent, count, rows), dtype));
    return std::vector{y, cells, gates, order, dprojected, drecurrent};
  });
}

TEMPLATE_TEST_CASE("rows, ids and losses have the same bits on any number of threads", "[kernels]", float,
                   double) {
  const DType dtype = dtype_of<TestType>;
  const Tensor x = random_values({kRows, kHidden}, 1, dtype), up = random_values({kRows}, 2, dtype);
  const Tensor ids = Tensor::empty({kRows}, DType::i32), slots = Tensor::empty({kRows, 1}, DType::i32);
  for (Index row = 0; row < kRows; ++row)
    ids.data<std::int32_t>()[row] = static_cast<std::int32_t>(row * row % 19);
  for (Index row = 0; row < kRows; ++row)
    slots.data<std::int32_t>()[row] = static_cast<std::int32_t>(kRows - 1 - row);
  check_same_bits([&] {
    const Tensor table = Tensor::zeros({19, kHidden}, dtype), rows = unwritten(x.shape(), dtype),
                 y = unwritten(x.shape(), dtype);
    const Tensor losses = unwritten({kRows}, dtype), p = unwritten(x.shape(), dtype),
                 d = unwritten(x.shape(), dtype);
    embedding_backward(x, ids, table);
    const std::array split{rows.rows(0, 9), rows.rows(9, kRows)};
    gather_rows(x, slots, split);
    combine_rows(split, slots, up.reshape({kRows, 1}), y, Write::assign);
    cross_entropy(x, ids, 0.1, losses, p, Tensor::empty({kRows}, DType::u8));
    cross_entropy_backward(up, p, ids, 0.1, d, Write::assign);
    const Tensor bounds = Tensor::of<std::int32_t>({3}, {0, 400, static_cast<std::int32_t>(kRows)}),
                 bags = unwritten({2, kHidden}, dtype), bag_table = Tensor::zeros({19, kHidden}, dtype);
    embedding_bag(ids, bounds, 2.0, x, bags);
    embedding_bag_backward(x.rows(0, 2), ids, bounds, 2.0, bag_table);
    const Tensor margins = unwritten({kRows}, dtype), dmargins = unwritten(x.shape(), dtype);
    squared_hinge(x, ids, margins);
    squared_hinge_backward(up, x, ids, dmargins, Write::assign);
    const Tensor errors = unwritten({kRows}, dtype), derrors = unwritten(x.shape(), dtype);
    squared_error(x, y, errors);
    squared_error_backward(up, x, y, derrors, Write::assign);
    return std::vector{table, rows, y, losses, p, d, bags, bag_table, margins, dmargins, errors, derrors};
  });
}

TEMPLATE_TEST_CASE("element-wise kernels have the same bits on any number of threads", "[kernels]", float,
                   double) {
  const DType dtype = dtype_of<TestType>;
  const Tensor x = random_values({kRows, kHidden}, 1, dtype), g = random_values(x.shape(), 2, dtype);
  check_same_bits([&] {
    const Tensor y = unwritten(x.shape(), dtype), slope = unwritten(x.shape(), dtype),
                 dropped = unwritten(x.shape(), dtype);
    const Tensor w = x.clone(), m = Tensor::zeros(x.shape(), dtype), v = m.clone(), average = x.clone();
    activation(x, Activation::silu, y, slope);
    const Tensor mask = Tensor::empty(x.shape(), DType::u8), back = unwritten(x.shape(), dtype);
    dropout(x, g, 0.3, RandomStream{1, 2, 3}, 5, dropped, mask);
    dropout_backward(g, mask, 0.3, back, Write::assign);
    const Tensor numbers = unwritten({kAdamWNumbers}, dtype);
    prepare_adamw({.weight_decay = 0.1, .ema = 0.9}, numbers);
    adamw(w, g, m, v, average, Decay::on, numbers);
    return std::vector{y, slope, dropped, mask, back, w, m, v, average};
  });
}

}  // namespace
}  // namespace conclave::kernels

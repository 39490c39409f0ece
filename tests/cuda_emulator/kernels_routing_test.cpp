#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/cuda/scratch.h"
#include "core/cuda/stream.h"
#include "core/kernels/activation.h"
#include "core/kernels/embedding.h"
#include "core/kernels/gate.h"
#include "core/kernels/hinge.h"
#include "core/kernels/matmul.h"
#include "core/kernels/permutation.h"
#include "core/kernels/reduction.h"
#include "core/kernels/routing.h"
#include "core/kernels/softmax.h"
#include "core/kernels/squared_error.h"
#include "tests/cuda_emulator/twins.h"

namespace conclave {
namespace {

// Using-declarations, because `cuda` alone could mean conclave::cuda or kernels::cuda here.
using conclave::cuda::empty_on_device, conclave::cuda::to_device, conclave::cuda::to_host;
using namespace kernels;
using Tensors = std::vector<Tensor>;
using Catch::Contains;

Tensor target(Write mode, const Shape& shape, DType dtype) {
  return mode == Write::assign ? unwritten(shape, dtype) : random_values(shape, 9, dtype);
}

TEMPLATE_TEST_CASE("sums on the device agree with the processor for any order of threads", "", float,
                   double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(1);
  for (int round = 0; round < 2 * kShapes; ++round) {
    const Tensor x = random_values({round == 0 ? 0 : shapes.between(1, round < 3 ? 30000 : 5000)}, 1, kType);
    std::vector<double> sums, squares;
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      emulator::set_seed(seed);
      const Tensor on_device = to_device(x);
      sums.push_back(sum(on_device));
      squares.push_back(sum_of_squares(on_device));
      CHECK(all_finite(on_device));
    }
    const Tensor off_bounds = to_device_off_bounds(x);
    CHECK(sum(off_bounds) == Approx(sums[0]).epsilon(tolerance<T>).margin(1e-4));
    CHECK(sum_of_squares(off_bounds) == Approx(squares[0]).epsilon(tolerance<T>));
    CHECK(all_finite(off_bounds));
    CHECK(sums[0] == Approx(sum(x)).epsilon(tolerance<T>).margin(1e-4));
    CHECK(squares[0] == Approx(sum_of_squares(x)).epsilon(tolerance<T>));
    CHECK((sums[0] == sums[1] && sums[0] == sums[2] && squares[0] == squares[1] && squares[0] == squares[2]));
    if (x.numel() == 0) continue;
    for (const double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}}) {
      const Tensor one = x.clone();
      one.data<T>()[shapes.between(0, x.numel() - 1)] = static_cast<T>(bad);
      CHECK_FALSE(all_finite(to_device(one)));
    }
  }
  CHECK(emulator::take_report() == "");
}

TEMPLATE_TEST_CASE("sums of squares of rows agree with the processor and need one wait", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(14);
  for (int round = 0; round < kShapes; ++round) {
    const Tensor x = random_values({shapes.between(0, 4), shapes.columns() * 7}, 1, kType),
                 y = random_values({3, 2, shapes.between(0, 2)}, 2, kType);
    const auto squares = [&](auto copy) {
      std::vector<double> result(7, 0.5);
      const auto of_x = std::span(result).first(static_cast<std::size_t>(x.size(0)));
      add_row_squares(std::array{RowSquares{copy(x), of_x}, RowSquares{copy(y), std::span(result).last(3)}},
                      3);
      return result;
    };
    const auto expected = squares([](const Tensor& host) { return host; });
    std::vector<double> first;
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      emulator::set_seed(seed);
      const auto actual = squares(seed == 3 ? to_device_off_bounds : to_device);
      for (std::size_t i = 0; i < actual.size(); ++i)
        CHECK(actual[i] == Approx(expected[i]).epsilon(tolerance<T>));
      if (seed == 2) CHECK(actual == first);
      first = actual;
    }
  }
  CHECK(emulator::take_report() == "");
  const Tensor many = random_values({2048 + 3, 1}, 3, kType);  // more rows than the grid has
  std::vector<double> here(2048 + 3), there = here;
  add_row_squares(std::array{RowSquares{many, here}}, 1);
  add_row_squares(std::array{RowSquares{to_device(many), there}}, 1);
  CHECK(here.back() == Approx(there.back()).epsilon(tolerance<T>));
}

TEMPLATE_TEST_CASE("reductions of segments and columns on the device agree with the processor", "", float,
                   double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(2);
  for (int round = 0; round < 2 * kShapes; ++round) {
    const Index segments = shapes.between(1, 12), rows = round == 0 ? 0 : shapes.between(1, 300);
    const Index columns = round % 2 ? 4 * shapes.between(1, 20) : shapes.between(1, 70);
    const Tensor offsets = shapes.offsets(segments, rows);
    const Tensor x = random_values({rows, columns}, 1, kType),
                 dy = random_values({segments, columns}, 2, kType);
    for (T& value : x.template span<T>()) value = std::round(value * 4) / 4;  // makes some values equal
    for (const Write mode : {Write::assign, Write::accumulate})
      compare_twins<T>(
          {x, offsets, unwritten({segments, columns}, kType), dy, target(mode, {rows, columns}, kType)},
          [&](const Tensors& t) {
            segment_mean(t[0], t[1], t[2]);
            segment_mean_backward(t[3], t[1], t[4], mode);
          });
    compare_twins<T>(
        {x, offsets, unwritten({segments, columns}, kType), Tensor::zeros({segments, columns}, DType::i32),
         dy, random_values({rows, columns}, 3, kType)},
        [&](const Tensors& t) {
          segment_max(t[0], t[1], t[2], t[3]);
          segment_max_backward(t[4], t[3], t[5]);
        });
    compare_twins<T>({x, random_values({columns}, 4, kType)},
                     [&](const Tensors& t) { column_sums(t[0], t[1]); });
  }
}

TEMPLATE_TEST_CASE("embeddings on the device agree with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(3);
  for (int round = 0; round < 2 * kShapes; ++round) {
    const bool wide = round % 4 == 3;  // one block for each row
    const Index rows = round == 0 ? 0 : shapes.between(1, wide ? 40 : 900), bags = shapes.between(1, 40);
    // Ids above 255 take the sort two passes. A small vocabulary has long runs of equal ids.
    const Index vocabulary = round % 3 == 0 && !wide ? shapes.between(256, 2000) : shapes.between(1, 20);
    const Index columns = wide        ? 4 * shapes.between(257, 300)
                          : round % 2 ? 4 * shapes.between(1, 40)
                                      : shapes.between(1, 150);
    const Tensor ids = shapes.integers({rows}, 0, vocabulary - 1), offsets = shapes.offsets(bags, rows);
    const Tensor table = random_values({vocabulary, columns}, 1, kType);
    for (const Write mode : {Write::assign, Write::accumulate})
      compare_twins<T>(
          {ids, table, target(mode, {rows, columns}, kType), random_values({rows, columns}, 2, kType),
           random_values({vocabulary, columns}, 3, kType)},
          [&](const Tensors& t) {
            embedding(t[0], t[1], t[2], mode);
            embedding_backward(t[3], t[0], t[4]);
          });
    compare_twins<T>(
        {ids, offsets, table, unwritten({bags, columns}, kType), random_values({bags, columns}, 4, kType),
         random_values({vocabulary, columns}, 5, kType)},
        [&](const Tensors& t) {
          embedding_bag(t[0], t[1], 0.8, t[2], t[3]);
          embedding_bag_backward(t[4], t[0], t[1], 0.8, t[5]);
        });
  }
}

TEST_CASE("an id or label out of range gives NaN on the device") {
  const Tensor ids = to_device(Tensor::of<std::int32_t>({3}, {1, -1, 2}));
  const Tensor table = to_device(random_values({2, 5}, 1, DType::f32));
  const Tensor y = empty_on_device({3, 5}), dtable = to_device(Tensor::zeros({2, 5}));
  embedding(ids, table, y);
  embedding_backward(y.rows(0, 3), ids, dtable);
  const Tensor host = to_host(y), gradient = to_host(dtable);
  CHECK(same_bits(host.rows(0, 1), to_host(table).rows(1, 2)));
  for (Index i = 5; i < 15; ++i) CHECK(std::isnan(host.data<float>()[i]));
  CHECK(same_bits(gradient.rows(1, 2), host.rows(0, 1)));
  CHECK(same_bits(gradient.rows(0, 1), Tensor::zeros({1, 5})));

  const Tensor losses = empty_on_device({3});
  const Tensor scores = to_device(random_values({3, 2}, 2, DType::f32));
  squared_hinge(scores, ids, losses);
  CHECK(std::isfinite(to_host(losses).data<float>()[0]));
  CHECK(std::isnan(to_host(losses).data<float>()[1]));
  CHECK(emulator::take_report() == "");
}

TEMPLATE_TEST_CASE("the hinge loss on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(4);
  for (int round = 0; round < 2 * kShapes; ++round) {
    const Index rows = round == 0 ? 0 : shapes.between(1, 20), classes = shapes.columns();
    for (const Write mode : {Write::assign, Write::accumulate})
      compare_twins<T>(
          {random_values({rows, classes}, 1, kType), shapes.integers({rows}, 0, classes - 1),
           unwritten({rows}, kType), random_values({rows}, 2, kType), target(mode, {rows, classes}, kType)},
          [&](const Tensors& t) {
            squared_hinge(t[0], t[1], t[2]);
            squared_hinge_backward(t[3], t[0], t[1], t[4], mode);
          });
  }
}

TEST_CASE("numbers that are not finite reach the loss, on the device as on the processor") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool device : {false, true}) {
    const auto there = [&](const Tensor& tensor) {
      return device ? conclave::cuda::to_device(tensor) : tensor.clone();
    };
    const auto back = [&](const Tensor& tensor) { return device ? conclave::cuda::to_host(tensor) : tensor; };
    const Tensor rows = there(Tensor::of<float>({3, 2}, {1, nan, nan, 2, 3, 1}));
    const Tensor rectified = there(Tensor::zeros({3, 2})), slope = there(Tensor::zeros({3, 2}));
    activation(rows, Activation::relu, rectified, slope);
    CHECK(std::isnan(back(rectified).data<float>()[1]));
    const Tensor product = there(Tensor::zeros({3, 4}));
    const std::array<Index, 2> one_group{0, 3};
    grouped_linear(rows, one_group, there(Tensor::of<float>({1, 4, 2}, {1, 1, 1, 1, 1, 1, 1, 1})), {},
                   Activation::relu, product, {});
    CHECK(std::isnan(back(product).data<float>()[0]));
    CHECK(back(product).data<float>()[8] == 4);
    const Tensor largest = there(Tensor::zeros({1, 2})), winners = there(Tensor::zeros({1, 2}, DType::i32));
    segment_max(rows, there(Tensor::of<std::int32_t>({2}, {0, 3})), largest, winners);
    CHECK(std::isnan(back(largest).data<float>()[0]));
    CHECK(std::isnan(back(largest).data<float>()[1]));
    CHECK(back(winners).data<std::int32_t>()[1] == 0);
    const Tensor losses = there(Tensor::zeros({3})), up = there(Tensor::of<float>({3}, {1, 1, 1})),
                 labels = there(Tensor::of<std::int32_t>({3}, {0, 0, 0}));
    squared_hinge(rows, labels, losses);
    squared_hinge_backward(up, rows, labels, slope, Write::assign);
    for (const Index row : {0, 1}) {
      CHECK(std::isnan(back(losses).data<float>()[row]));
      CHECK(std::isnan(back(slope).data<float>()[row * 2 + 1 - row]));
    }
    CHECK(std::isfinite(back(losses).data<float>()[2]));
  }
  CHECK(emulator::take_report() == "");
}

TEMPLATE_TEST_CASE("the squared error on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(6);
  for (int round = 0; round < 2 * kShapes; ++round) {
    const Index rows = round == 0 ? 0 : shapes.between(1, 20), columns = shapes.columns();
    for (const Write mode : {Write::assign, Write::accumulate})
      compare_twins<T>(
          {random_values({rows, columns}, 1, kType), random_values({rows, columns}, 2, kType),
           unwritten({rows}, kType), random_values({rows}, 3, kType), target(mode, {rows, columns}, kType)},
          [&](const Tensors& t) {
            squared_error(t[0], t[1], t[2]);
            squared_error_backward(t[3], t[0], t[1], t[4], mode);
          });
  }
}

TEMPLATE_TEST_CASE("the gate on the device makes the same choices as on the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(5);
  for (int round = 0; round < 4 * kShapes; ++round) {
    const Index tokens = round == 0 ? 0 : shapes.between(1, 40),
                experts = shapes.between(1, round % 4 ? 20 : 200);
    const Index k = shapes.between(1, std::min<Index>(experts, 40));
    const Tensor p = random_values({tokens, experts}, 1, kType);
    for (T& value : p.template span<T>())
      value = std::round(std::fabs(value) * 8) / 8 + T(0.125);  // with ties
    if (round == 1) p.zero();  // probabilities underflow to 0 in f32, far from the largest
    const Tensor bias = round % 2 ? random_values({experts}, 2, kType) : Tensor{};
    const Tensor factor = round % 3 ? Tensor::empty({experts}, kType) : Tensor{};
    if (factor.defined())
      for (T& value : factor.template span<T>()) value = static_cast<T>(shapes.between(1, 4));
    const TopP top_p = round % 4 < 2 ? TopP{} : TopP{.p = 0.3, .least = shapes.between(1, k)};
    for (const Write mode : {Write::assign, Write::accumulate})
      compare_twins<T>(
          {p, bias, factor, Tensor::zeros({tokens, k}, DType::i32), unwritten({tokens, k}, kType),
           random_values({tokens, k}, 3, kType), target(mode, {tokens, experts}, kType)},
          [&](const Tensors& t) {
            top_k_gate(t[0], {.bias = t[1], .factor = t[2]}, t[3], t[4], top_p);
            top_k_gate_backward(t[5], t[0], t[3], t[4], t[6], mode);
          });
  }
}

TEST_CASE("counts of experts and slots on the device agree with the processor") {
  Shapes shapes(6);
  for (int round = 0; round < 4 * kShapes; ++round) {
    const Index tokens = round == 0   ? 0
                         : round == 1 ? 30000
                                      : shapes.between(1, 900),
                k = shapes.between(2, 4);
    const Index number = round % 6 == 5 ? 8200 : round % 3 ? shapes.between(1, 12) : shapes.between(200, 700);
    const Tensor experts = shapes.integers({tokens, k}, -1, number - 1);
    std::vector<SlotRange> ranges(static_cast<std::size_t>(number));
    for (SlotRange& range : ranges)
      range = {.skip = shapes.between(0, 3), .rows = shapes.between(0, 60), .first = shapes.between(0, 1000)};
    std::vector<SlotRange> left = ranges;
    std::vector<Index> counts(ranges.size()), expected_counts(ranges.size());
    const Tensor expected = Tensor::zeros({tokens, k}, DType::i32);
    count_experts(experts, expected_counts);
    assign_slots(experts, left, expected);
    for (std::uint64_t seed = 1; seed <= 2; ++seed) {
      emulator::set_seed(seed);
      const Tensor on_device = to_device(experts), slots = empty_on_device({tokens, k}, DType::i32);
      count_experts(on_device, counts);
      CHECK(counts == expected_counts);
      left = ranges;
      assign_slots(on_device, left, slots);
      CHECK(same_bits(to_host(slots), expected));
      // Assigning slots does not wait for the device: scratch memory exists by now, so the work stays queued.
      const std::size_t launches = emulator::counters().launches;
      left = ranges;
      assign_slots(on_device, left, slots);
      CHECK(emulator::counters().launches == launches);
    }
  }
  CHECK(emulator::take_report() == "");
  std::vector<Index> counts(2);
  const Tensor wrong = to_device(Tensor::of<std::int32_t>({1, 3}, {0, 2, -2}));
  CHECK_THROWS_WITH(count_experts(wrong, counts),
                    "count_experts: 2 of 3 choices name no expert; there are 2 experts");
}

TEMPLATE_TEST_CASE("moving rows on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(7);
  for (int round = 0; round < 2 * kShapes; ++round) {
    const Index tokens = round == 0 ? 0 : shapes.between(1, 30), k = shapes.between(1, 4),
                hidden = shapes.columns();
    const Index rows = tokens * k;
    const Tensor slots = Tensor::empty({tokens, k}, DType::i32);
    std::vector<std::int32_t> order(static_cast<std::size_t>(rows));
    for (Index i = 0; i < rows; ++i) order[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
    std::shuffle(order.begin(), order.end(), std::mt19937(static_cast<unsigned>(round)));
    for (Index i = 0; i < rows; ++i)
      slots.data<std::int32_t>()[i] = shapes.between(0, 4) == 0 ? -1 : order[static_cast<std::size_t>(i)];
    // Sizes of the parts of the rows; some are empty.
    std::vector<Index> sizes(static_cast<std::size_t>(shapes.between(1, Index{kMostRowParts})));
    Index left = rows;
    for (Index& size : sizes) left -= size = &size == &sizes.back() ? left : shapes.between(0, left);
    const auto with = [&](Tensors others, std::initializer_list<std::uint32_t> numbers) {
      for (const std::uint32_t number : numbers)
        for (const Index size : sizes)
          others.push_back(random_values({size, hidden}, number + static_cast<std::uint32_t>(size), kType));
      return others;
    };
    const auto parts = [&](const Tensors& t, std::size_t behind) {
      return RowParts(t).subspan(behind, sizes.size());
    };
    const Tensor x = random_values({tokens, hidden}, 1, kType);
    // Scaled so that dot products of rows are of the order of 1.
    scale(x, 1 / std::sqrt(static_cast<double>(std::max<Index>(hidden, 1))), x);
    compare_twins<T>(with({x, slots}, {100}),
                     [&](const Tensors& t) { gather_rows(t[0], t[1], parts(t, 2)); });
    for (const bool weighted : {false, true})
      for (const Write mode : {Write::assign, Write::accumulate})
        compare_twins<T>(with({x, slots, weighted ? random_values({tokens, k}, 8, kType) : Tensor{},
                               target(mode, {tokens, hidden}, kType),
                               weighted ? random_values({tokens, k}, 10, kType) : Tensor{},
                               weighted ? random_values({tokens, k}, 11, kType) : Tensor{}},
                              {200, 300}),
                         [&](const Tensors& t) {
                           const RowParts from = parts(t, 6), to = parts(t, 6 + sizes.size());
                           combine_rows(from, t[1], t[2], t[3], mode);
                           combine_rows_backward(t[0], from, t[1], t[2], to, t[4]);
                           combine_rows_backward(t[0], from, t[1], t[2], from, t[5]);  // in place
                         });
  }
}

TEMPLATE_TEST_CASE("concatenating and taking columns on the device agrees with the processor", "", float,
                   double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(8);
  for (int round = 0; round < 2 * kShapes; ++round) {
    const Index rows = round == 0 ? 0 : shapes.between(1, 20), m = shapes.columns(), n = shapes.columns();
    for (const Write mode : {Write::assign, Write::accumulate})
      compare_twins<T>({random_values({rows, m}, 1, kType), random_values({rows, n}, 2, kType),
                        unwritten({rows, m + n}, kType), target(mode, {rows, n}, kType)},
                       [&](const Tensors& t) {
                         concatenate_columns(t[0], t[1], t[2]);
                         take_columns(t[2], m, t[3], mode);
                       });
  }
}

TEST_CASE("kernels allocate scratch memory once for each stream") {
  const Tensor dy = to_device(random_values({3000, 40}, 1, DType::f32)),
               ids = to_device(Shapes(9).integers({3000}, 0, 300)),
               expected = to_device(Tensor::zeros({301, 40})), dtable = to_device(Tensor::zeros({301, 40}));
  embedding_backward(dy, ids, expected);
  to_host(expected);
  const std::size_t allocations = emulator::counters().allocations;
  for (int i = 0; i < 3; ++i) column_sums(dy, dtable.rows(i, i + 1).reshape({40}));
  sum(dy);
  embedding_backward(dy, ids, expected);
  CHECK(emulator::counters().allocations == allocations);

  // Two streams at once; their work may interleave in any way.
  const conclave::cuda::Stream stream;
  const Tensor one = to_device(Tensor::zeros({301, 40})), other = to_device(Tensor::zeros({301, 40}));
  embedding_backward(dy, ids, one);
  {
    const conclave::cuda::StreamScope scope(stream);
    embedding_backward(dy, ids, other);
  }
  stream.synchronize();
  CHECK(same_bits(to_host(one), to_host(other)));
  CHECK(emulator::take_report() == "");
}

TEST_CASE("outgrown scratch memory is freed, except while it is borrowed") {
  using conclave::cuda::Scratch;
  constexpr Index kStart = Index{2} << 20;
  const conclave::cuda::Stream stream;
  const conclave::cuda::StreamScope scope(stream);
  const std::size_t before = emulator::counters().live_bytes;
  const auto held = [&] { return static_cast<Index>(emulator::counters().live_bytes - before); };
  const auto borrow = [&](Index bytes) {
    Scratch scratch;
    const Tensor memory =
        Tensor::borrow(scratch.array<float>(bytes / 4), {bytes / 4}, DType::f32, Device::cuda);
    memory.fill(1);  // queued, and not yet run when the next loan is larger
  };
  for (Index bytes = kStart; bytes <= 4 * kStart; bytes += kStart / 2) {
    borrow(bytes);
    CHECK(held() <= bytes + bytes / 8);
  }
  const std::size_t allocations = emulator::counters().allocations;
  for (Index bytes = kStart; bytes <= 4 * kStart; bytes += kStart / 2) borrow(bytes);
  CHECK(emulator::counters().allocations == allocations);

  Scratch outer;
  const Tensor lent = Tensor::borrow(outer.array<float>(64), {64}, DType::f32, Device::cuda);
  lent.fill(7);
  for (Index bytes = 5 * kStart; bytes <= 8 * kStart; bytes += kStart) {
    borrow(bytes);
    CHECK(held() <= 5 * kStart + bytes + bytes / 8);
  }
  CHECK(to_host(lent).data<float>()[63] == 7);
  CHECK(emulator::take_report() == "");
}

TEST_CASE("an operation on tensors of two devices is an Error") {
  const Tensor a = random_values({3, 4}, 1, DType::f32), b = to_device(a);
  CHECK_THROWS_WITH(embedding(to_device(Tensor::zeros({3}, DType::i32)), b, a),
                    "embedding: some tensors are on cuda, others on cpu; copy all to one of them");
}

TEMPLATE_TEST_CASE("router losses and noise on the device agree with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(11);
  for (int round = 0; round < 2 * kShapes; ++round) {
    const Index tokens = round == 0 ? 0 : shapes.between(1, 60), sequences = shapes.between(1, 8);
    const Index experts = round == 1   ? 1029  // so many that each token has a block
                          : round == 2 ? 1032
                          : round % 3  ? shapes.between(1, 20)
                                       : shapes.columns();
    const Tensor offsets = shapes.offsets(sequences, tokens), chosen = shapes.integers({sequences}, 0, 1);
    const Tensor logits = random_values({tokens, experts}, 1, kType),
                 probabilities = unwritten(logits.shape(), kType), lse = unwritten({tokens}, kType);
    softmax(logits, probabilities, lse);
    const Tensor dlogits = random_values(logits.shape(), 2, kType);
    for (const RouterTerms terms : {RouterTerms{.z = 0.3}, {.entropy = 0.2}, {0.1, 0.4}})
      compare_twins<T>({probabilities, lse, dlogits},
                       [&](const Tensors& t) { add_router_gradients(t[0], t[1], terms, t[2]); });
    compare_twins<T>({probabilities, offsets, chosen, dlogits}, [&](const Tensors& t) {
      add_domain_gradients(t[0], t[1], t[2], 0.7, experts / 2, t[3]);
    });
    compare_twins<T>({dlogits, random_values({experts}, 3, DType::f64)},
                     [](const Tensors& t) { add_row(t[1], t[0]); });
    compare_twins<T>({unwritten({tokens}, DType::i32), offsets},
                     [](const Tensors& t) { segment_numbers(t[1], t[0]); });
    compare_twins<T>({unwritten(logits.shape(), kType)}, [&](const Tensors& t) {
      normal_noise({.seed = 3, .step = 1, .tensor = 2}, 7 * round, 0.5, t[0]);
    });
    compare_twins<T>({logits, dlogits}, [](const Tensors& t) { swap(t[0], t[1]); });
  }
}

TEST_CASE("tensors on the device are cleared, filled and copied", "[arena]") {
  for (const DType dtype : {DType::f32, DType::f64, DType::i32})
    for (const Index first : {0, 1}) {  // aligned for vectors, and not
      const Tensor all = empty_on_device({37 + first}, dtype), on_device = all.rows(first, 37 + first),
                   here = Tensor::zeros({37}, dtype);
      on_device.fill(3);
      here.copy_from(on_device);
      CHECK(here.to(DType::f64).data<double>()[36] == 3);
      on_device.zero();
      here.copy_from(on_device);
      CHECK(here.to(DType::f64).data<double>()[36] == 0);
    }
  CHECK(emulator::take_report() == "");
}

TEST_CASE("filling a device view with gaps leaves the gaps, and the host cannot read it") {
  const Tensor all = to_device(random_values({4, 6}, 1, DType::f32)), before = to_host(all),
               columns = all.slice(1, 1, 3);
  CHECK_THROWS_WITH(columns.fill(3), "fill: the view [4, 2] is not contiguous");
  CHECK_THROWS_WITH(columns.zero(), "zero: the view [4, 2] is not contiguous");
  CHECK_THROWS_WITH(columns.clone(), Contains("clone: the view [4, 2] is of a device's memory"));
  CHECK(same_bits(to_host(all), before));
  CHECK(same_bits(all.rows(1, 3).clone(), before.rows(1, 3)));
}

TEST_CASE("tables of any size are downloaded through pinned memory") {
  for (const Index count : {0, 1, 5000}) {
    const Tensor values = random_values({count}, 1, DType::f64), on_device = to_device(values),
                 back = unwritten({count}, DType::f64);
    const std::size_t pageable = emulator::counters().pageable_copies;
    conclave::cuda::download("download", on_device.raw(), on_device.bytes(), back.raw());
    CHECK(same_bits(back, values));
    CHECK(emulator::counters().pageable_copies == pageable);
  }
}

}  // namespace
}  // namespace conclave

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "core/kernels/embedding.h"
#include "core/kernels/gate.h"
#include "core/kernels/permutation.h"
#include "core/kernels/softmax.h"
#include "core/random.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

Tensor probabilities(Index tokens, Index experts, DType dtype) {
  const Tensor scores = random_values({tokens, experts}, 1, dtype);
  softmax(scores, scores, Tensor());
  return scores;
}

// Random experts for [tokens, k]; only even experts are chosen, so the odd ones stay empty.
Tensor some_experts(Index tokens, Index k, Index experts) {
  const Tensor chosen = Tensor::empty({tokens, k}, DType::i32);
  const RandomStream stream{.seed = 3, .step = 0, .tensor = 0};
  for (Index i = 0; i < chosen.numel(); ++i)
    chosen.data<std::int32_t>()[i] =
        static_cast<std::int32_t>(stream.below(size_t(experts), size_t(i))) / 2 * 2;
  return chosen;
}

TEMPLATE_TEST_CASE("the gate chooses the k largest and makes their weights sum to one", "[kernels]", float,
                   double) {
  const DType dtype = dtype_of<TestType>;
  for (const Index tokens : {0, 1, 37, 3001}) {
    for (const Index k : {1, 2, 7}) {
      const Index experts = 7;
      const Tensor p = probabilities(tokens, experts, dtype);
      const Tensor chosen = Tensor::empty({tokens, k}, DType::i32), weights = unwritten({tokens, k}, dtype);
      const Tensor expected_choice = chosen.clone(),
                   expected_weights = Tensor::empty({tokens, k}, DType::f64);
      for (Index t = 0; t < tokens; ++t) {
        std::vector<std::int32_t> order(static_cast<size_t>(experts));
        std::iota(order.begin(), order.end(), 0);
        const TestType* row = p.data<TestType>() + t * experts;
        std::ranges::stable_sort(order, std::greater{}, [&](std::int32_t e) { return row[e]; });
        double sum = 0;
        for (Index j = 0; j < k; ++j) sum += double(row[order[size_t(j)]]);
        for (Index j = 0; j < k; ++j) {
          expected_choice.data<std::int32_t>()[t * k + j] = order[size_t(j)];
          expected_weights.data<double>()[t * k + j] = double(row[order[size_t(j)]]) / sum;
        }
      }
      top_k_gate(p, {}, chosen, weights);
      CHECK(same_bits(chosen, expected_choice));
      CHECK(distance(weights, expected_weights) < tolerance<TestType>);
    }
  }
}

TEMPLATE_TEST_CASE("with top-p a token goes to the fewest of its best experts that reach p", "[kernels]",
                   float, double) {
  const DType dtype = dtype_of<TestType>;
  const Index tokens = 301, experts = 7, k = 4;
  const Tensor p = probabilities(tokens, experts, dtype);
  const Tensor all = Tensor::empty({tokens, k}, DType::i32), chosen = Tensor::empty({tokens, k}, DType::i32);
  const Tensor weights = unwritten({tokens, k}, dtype);
  top_k_gate(p, {}, all, weights);
  for (const double enough : {0.05, 0.5, 0.9}) {
    for (const Index least : {1, 2, 4}) {
      CAPTURE(enough, least);
      weights.fill(-1);
      top_k_gate(p, {}, chosen, weights, {enough, least});
      std::set<Index> sizes;
      for (Index t = 0; t < tokens; ++t) {
        const auto* best = all.data<std::int32_t>() + t * k;
        Index taken = 0;
        TestType sum = 0;
        while (taken < k && (taken < least || sum < TestType(enough)))
          sum += p.data<TestType>()[t * experts + best[taken++]];
        sizes.insert(taken);
        for (Index j = 0; j < k; ++j) {
          CHECK(chosen.data<std::int32_t>()[t * k + j] == (j < taken ? best[j] : -1));
          const double weight = j < taken ? double(p.data<TestType>()[t * experts + best[j]] / sum) : 0.0;
          CHECK(double(weights.data<TestType>()[t * k + j]) == Approx(weight).margin(1e-12));
        }
      }
      if (enough == 0.5 && least == 1) CHECK(sizes.size() > 1);
    }
  }
  const Tensor sure = Tensor::of<TestType>({1, 3}, {1, 0, 0});  // top_p = 1 takes all k, even if one has all
  const Tensor two = Tensor::empty({1, 2}, DType::i32);
  top_k_gate(sure, {}, two, Tensor::empty({1, 2}, dtype), {1.0, 1});
  CHECK(same_bits(two, Tensor::of<std::int32_t>({1, 2}, {0, 1})));
  for (const TopP wrong : {TopP{0.0, 1}, TopP{1.1, 1}, TopP{0.5, 0}, TopP{0.5, 5}})
    CHECK_THROWS_WITH(top_k_gate(p, {}, chosen, weights, wrong), Catch::Contains("top_k_gate: p "));
}

TEST_CASE("a selection bias changes the choice of experts but not the weights", "[kernels]") {
  const Tensor p = Tensor::of<double>({1, 4}, {0.4, 0.3, 0.2, 0.1}),
               bias = Tensor::of<double>({4}, {-1, 0, 0, 0.15});
  const Tensor chosen = Tensor::empty({1, 2}, DType::i32), weights = Tensor::empty({1, 2}, DType::f64);
  top_k_gate(p, {bias, {}}, chosen, weights);
  CHECK(chosen.data<std::int32_t>()[0] == 1);
  CHECK(chosen.data<std::int32_t>()[1] == 3);
  CHECK(distance(weights, Tensor::of<double>({1, 2}, {0.75, 0.25})) < 1e-15);
}

TEST_CASE("a selection factor scales scores, and what top_p sums, but not the weights", "[kernels]") {
  const Tensor p = Tensor::of<double>({1, 4}, {0.6, 0.2, 0.15, 0.05}),
               factor = Tensor::of<double>({4}, {0.1, 1, 2, 1});  // 0.06 + 0.2 + 0.3 + 0.05 = 0.61
  const Tensor chosen = Tensor::empty({1, 3}, DType::i32), weights = Tensor::empty({1, 3}, DType::f64);
  top_k_gate(p, {{}, factor}, chosen, weights);
  CHECK(distance(weights, Tensor::of<double>({1, 3}, {0.15 / 0.95, 0.2 / 0.95, 0.6 / 0.95})) < 1e-15);
  top_k_gate(p, {{}, factor}, chosen, weights, {0.49});  // 0.3 / 0.61 = 0.492
  CHECK(distance(weights, Tensor::of<double>({1, 3}, {1, 0, 0})) < 1e-15);
  CHECK(chosen.data<std::int32_t>()[0] == 2);
  top_k_gate(p, {{}, factor}, chosen, weights, {0.5});  // 0.5 / 0.61 = 0.82
  CHECK(distance(weights, Tensor::of<double>({1, 3}, {0.15 / 0.35, 0.2 / 0.35, 0})) < 1e-15);
}

TEST_CASE("weights and gradients are finite when biases choose experts of probability 0", "[moe]") {
  const Tensor p = Tensor::of<float>({1, 3}, {1, 0, 0}), bias = Tensor::of<float>({3}, {0, 3, 2});
  const Tensor chosen = Tensor::zeros({1, 2}, DType::i32), weights = Tensor::empty({1, 2}),
               dp = Tensor::empty({1, 3});
  top_k_gate(p, {bias, {}}, chosen, weights);
  CHECK(chosen.data<std::int32_t>()[0] == 1);
  for (const float weight : weights.span<float>()) CHECK(weight == 0);
  top_k_gate_backward(Tensor::of<float>({1, 2}, {0.5F, -2}), p, chosen, weights, dp, Write::assign);
  for (const float value : dp.span<float>()) CHECK(std::isfinite(value));
  CHECK(dp.data<float>()[0] == 0);
}

TEST_CASE("experts whose score is not a number are chosen last", "[kernels]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor p = Tensor::of<float>({1, 4}, {0.4F, 0.1F, 0.2F, 0.3F}),
               bias = Tensor::of<float>({4}, {nan, 0, nan, 0});
  const Tensor chosen = Tensor::empty({1, 3}, DType::i32), weights = Tensor::empty({1, 3});
  top_k_gate(p, {bias, {}}, chosen, weights);
  CHECK(same_bits(chosen, Tensor::of<std::int32_t>({1, 3}, {3, 1, 0})));
}

TEST_CASE("among equal scores the lower expert is chosen, and each expert only once", "[kernels]") {
  const Tensor p = Tensor::of<float>({1, 4}, {0.25f, 0.25f, 0.25f, 0.25f});
  const Tensor chosen = Tensor::empty({1, 3}, DType::i32), weights = Tensor::empty({1, 3});
  top_k_gate(p, {}, chosen, weights);
  CHECK(same_bits(chosen, Tensor::of<std::int32_t>({1, 3}, {0, 1, 2})));
  CHECK_THROWS_WITH(top_k_gate(p, {}, Tensor::empty({1, 5}, DType::i32), Tensor::empty({1, 5})),
                    "top_k_gate: 5 of 4 experts cannot be chosen");
}

TEMPLATE_TEST_CASE("the gate's backward is the quotient rule on the chosen experts", "[kernels]", float,
                   double) {
  const DType dtype = dtype_of<TestType>;
  const Index tokens = 29, experts = 5, k = 3;
  const Tensor p = probabilities(tokens, experts, dtype), up = random_values({tokens, k}, 2, dtype);
  const Tensor chosen = Tensor::empty({tokens, k}, DType::i32), weights = Tensor::empty({tokens, k}, dtype);
  top_k_gate(p, {}, chosen, weights);
  const Tensor expected = Tensor::zeros(p.shape(), DType::f64);
  const auto probability = [&](Index t, Index j) {
    return double(p.data<TestType>()[t * experts + chosen.data<std::int32_t>()[t * k + j]]);
  };
  for (Index t = 0; t < tokens; ++t) {
    double sum = 0;
    for (Index j = 0; j < k; ++j) sum += probability(t, j);
    for (Index i = 0; i < k; ++i)  // w_i = p_i / sum
      for (Index j = 0; j < k; ++j)
        expected.data<double>()[t * experts + chosen.data<std::int32_t>()[t * k + j]] +=
            double(up.data<TestType>()[t * k + i]) * ((i == j) / sum - probability(t, i) / (sum * sum));
  }
  const Tensor dp = unwritten(p.shape(), dtype);
  top_k_gate_backward(up, p, chosen, weights, dp, Write::assign);
  CHECK(distance(dp, expected) < 10 * tolerance<TestType>);
  top_k_gate_backward(up, p, chosen, weights, dp, Write::accumulate);
  CHECK(distance(dp, plus(expected, expected)) < 10 * tolerance<TestType>);
}

TEST_CASE("count_experts counts rows and names an expert that does not exist", "[kernels]") {
  for (const Index tokens : {0, 1, 50}) {
    const Tensor chosen = some_experts(tokens, 3, 8);
    std::vector<Index> counts(8, -1);
    count_experts(chosen, counts);
    for (Index e = 0; e < 8; ++e)
      CHECK(counts[size_t(e)] == std::ranges::count(chosen.span<std::int32_t>(), std::int32_t(e)));
  }
  std::vector<Index> counts(4);
  count_experts(Tensor::of<std::int32_t>({2, 2}, {3, -1, 1, 3}), counts);  // -1: no expert
  CHECK(counts == std::vector<Index>{0, 1, 0, 2});
  CHECK_THROWS_WITH(count_experts(Tensor::of<std::int32_t>({1, 1}, {-2}), counts),
                    "count_experts: expert -2 of 4");
  CHECK_THROWS_WITH(count_experts(Tensor::of<std::int32_t>({1, 1}, {4}), counts),
                    "count_experts: expert 4 of 4");
}

TEST_CASE("assign_slots gives slots to a range of each expert's choices, in order", "[kernels]") {
  const Tensor chosen = Tensor::of<std::int32_t>({5, 2}, {0, 1, 1, 0, 0, -1, 1, 2, 1, -1});
  const Tensor slots = Tensor::empty({5, 2}, DType::i32);
  SlotRange ranges[] = {{.skip = 1, .rows = 5, .first = 10}, {.skip = 1, .rows = 2, .first = 20}, {}};
  assign_slots(chosen, ranges, slots);
  const std::int32_t expected[] = {-1, -1, 20, 10, 11, -1, 21, -1, -1, -1};
  CHECK(std::ranges::equal(slots.span<std::int32_t>(), expected));
  SlotRange two[2];
  CHECK_THROWS_WITH(assign_slots(chosen, two, slots), "assign_slots: expert 2 of 2");
}

// Slots in [0, rows) for all choices but every fifth, which has none. They are distinct if `rows` is at least
// the number of choices and coprime to 7.
Tensor some_slots(Index tokens, Index k, Index rows) {
  const Tensor slots = Tensor::empty({tokens, k}, DType::i32);
  for (Index i = 0; i < slots.numel(); ++i)
    slots.data<std::int32_t>()[i] = i % 5 == 4 ? -1 : static_cast<std::int32_t>((i * 7) % rows);
  return slots;
}

TEMPLATE_TEST_CASE("gather, combine and the backward of combine move rows as slots say", "[kernels]", float,
                   double) {
  const DType dtype = dtype_of<TestType>;
  struct Size {
    Index tokens, k, hidden;
  };
  for (const auto [tokens, k, hidden] :
       {Size{0, 2, 3}, Size{1, 1, 1}, Size{13, 3, 5}, Size{501, 2, 33}, Size{11001, 3, 64}}) {
    Index count = tokens * k;
    while (std::gcd(count, Index{7}) != 1) ++count;  // so that every choice has its own row
    const Tensor slots = some_slots(tokens, k, count);
    const Tensor x = random_values({tokens, hidden}, 1, dtype),
                 rows = random_values({count, hidden}, 2, dtype);
    const Tensor weights = random_values({tokens, k}, 3, dtype);
    const Tensor gathered = Tensor::zeros(rows.shape(), DType::f64),
                 combined = Tensor::zeros(x.shape(), DType::f64);
    const Tensor summed = combined.clone(), drows = gathered.clone(),
                 dweights = Tensor::zeros({tokens, k}, DType::f64);
    for (Index c = 0; c < tokens * k; ++c) {
      if (slots.data<std::int32_t>()[c] < 0) continue;
      for (Index i = 0; i < hidden; ++i) {
        const Index to = slots.data<std::int32_t>()[c] * hidden + i, from = c / k * hidden + i;
        const double w = double(weights.data<TestType>()[c]), token = double(x.data<TestType>()[from]),
                     row = double(rows.data<TestType>()[to]);
        gathered.data<double>()[to] = token;
        combined.data<double>()[from] += w * row;
        summed.data<double>()[from] += row;
        drows.data<double>()[to] = w * token;
        dweights.data<double>()[c] += token * row;
      }
    }
    // Rows without a slot stay as they are, however the rows are divided into five parts.
    for (const Index split : {Index{0}, count / 3, count}) {
      const auto parts = [&](const Tensor& all) {
        const Index rest = count - split;
        return std::array{all.rows(0, split), all.rows(split, split), all.rows(split, split + rest / 2),
                          all.rows(split + rest / 2, count), all.rows(count, count)};
      };
      const Tensor moved = Tensor::zeros(rows.shape(), dtype), y = unwritten(x.shape(), dtype),
                   dw = Tensor::zeros({tokens, k}, dtype);
      gather_rows(x, slots, parts(moved));
      CHECK(distance(moved, gathered) == 0);
      combine_rows(parts(rows), slots, weights, y, Write::assign);
      CHECK(distance(y, combined) < tolerance<TestType>);
      combine_rows(parts(rows), slots, Tensor(), y, Write::accumulate);
      CHECK(distance(y, plus(combined, summed)) < tolerance<TestType>);
      combine_rows_backward(x, parts(rows), slots, weights, parts(moved), dw);
      CHECK(distance(moved, drows) < tolerance<TestType>);
      CHECK(distance(dw, dweights) < tolerance<TestType>);
      combine_rows_backward(x, parts(rows), slots, Tensor(), parts(moved), Tensor());
      CHECK(distance(moved, gathered) == 0);
      // The result may overwrite the rows that are read.
      const Tensor in_place = rows.clone(), in_place_dw = Tensor::zeros({tokens, k}, dtype);
      combine_rows_backward(x, parts(rows), slots, weights, parts(moved), dw);
      combine_rows_backward(x, parts(in_place), slots, weights, parts(in_place), in_place_dw);
      CHECK(same_bits(in_place_dw, dw));
      for (Index c = 0; c < tokens * k; ++c)
        if (const auto slot = slots.data<std::int32_t>()[c]; slot >= 0)
          CHECK(same_bits(in_place.rows(slot, slot + 1), moved.rows(slot, slot + 1)));
    }
  }
  const Tensor x = Tensor::zeros({2, 3}, dtype), slots = Tensor::zeros({2, 1}, DType::i32);
  const std::array other{Tensor::zeros({1, 3}, dtype), Tensor::zeros({1, 4}, dtype)};
  CHECK_THROWS_WITH(gather_rows(x, slots, other), Catch::Contains("gather_rows: rows is") &&
                                                      Catch::Contains("[1, 4], expected") &&
                                                      Catch::Contains("[1, 3]"));
}

TEMPLATE_TEST_CASE("columns taken from concatenated tensors are those that were put in", "[kernels]", float,
                   double) {
  for (const Index rows : {0, 1, 9, 700}) {
    const Tensor a = random_values({rows, 5}, 1, dtype_of<TestType>),
                 b = random_values({rows, 33}, 2, a.dtype());
    const Tensor y = unwritten({rows, 38}, a.dtype()), left = unwritten(a.shape(), a.dtype()),
                 right = b.clone();
    concatenate_columns(a, b, y);
    take_columns(y, 0, left, Write::assign);
    CHECK(same_bits(left, a));
    take_columns(y, 5, right, Write::accumulate);
    CHECK(distance(right, plus(b, b)) < tolerance<TestType>);
    CHECK_THROWS_AS(take_columns(y, 6, right, Write::assign), Error);
  }
}

TEMPLATE_TEST_CASE("the embedding looks rows up, and its backward adds to them", "[kernels]", float, double) {
  for (const Index rows : {0, 1, 60, 1100}) {
    const Index vocabulary = 11, hidden = 17;
    const Tensor table = random_values({vocabulary, hidden}, 1, dtype_of<TestType>),
                 dy = random_values({rows, hidden}, 2, table.dtype());
    const Tensor ids = Tensor::empty({rows}, DType::i32),
                 dtable = random_values(table.shape(), 3, table.dtype());
    const Tensor expected = Tensor::empty({rows, hidden}, DType::f64), dexpected = dtable.to(DType::f64);
    for (Index r = 0; r < rows; ++r) {
      const Index id = r * r % (vocabulary - 1);
      ids.data<std::int32_t>()[r] = std::int32_t(id);
      for (Index i = 0; i < hidden; ++i) {
        expected.data<double>()[r * hidden + i] = double(table.data<TestType>()[id * hidden + i]);
        dexpected.data<double>()[id * hidden + i] += double(dy.data<TestType>()[r * hidden + i]);
      }
    }
    const Tensor y = unwritten({rows, hidden}, table.dtype());
    embedding(ids, table, y);
    CHECK(distance(y, expected) == 0);
    embedding(ids, table, y, Write::accumulate);
    CHECK(distance(y, plus(expected, expected)) == 0);
    embedding_backward(dy, ids, dtable);
    CHECK(distance(dtable, dexpected) < 10 * tolerance<TestType>);
  }
  const Tensor table = Tensor::zeros({3, 2}), y = Tensor::zeros({2, 2});
  CHECK_THROWS_WITH(embedding(Tensor::of<std::int32_t>({2}, {0, 3}), table, y),
                    "embedding: id 3 at row 1 is outside the table of 3");
  CHECK_THROWS_AS(embedding(Tensor::of<std::int32_t>({2}, {-1, 0}), table, y), Error);
}

TEMPLATE_TEST_CASE("an embedding bag divides the sum of its rows by the root of their number", "[kernels]",
                   float, double) {
  const Index vocabulary = 11, columns = 17;
  for (const Index bags : {0, 1, 40, 300}) {
    std::vector<std::int32_t> bounds{0}, values;
    for (Index b = 0; b < bags; ++b) {
      for (Index i = 0; i < b * b % 7; ++i)  // some bags are empty
        values.push_back(std::int32_t((b + i * i) % (vocabulary - 1)));
      bounds.push_back(std::int32_t(values.size()));
    }
    const Tensor ids = Tensor::of<std::int32_t>({Index(values.size())}, values),
                 offsets = Tensor::of<std::int32_t>({bags + 1}, bounds);
    const Tensor table = random_values({vocabulary, columns}, 1, dtype_of<TestType>),
                 dy = random_values({bags, columns}, 2, table.dtype()),
                 dtable = random_values(table.shape(), 3, table.dtype());
    const Tensor expected = Tensor::zeros({bags, columns}, DType::f64), dexpected = dtable.to(DType::f64);
    for (Index b = 0; b < bags; ++b)
      for (std::int32_t i = bounds[size_t(b)]; i < bounds[size_t(b) + 1]; ++i)
        for (Index c = 0; c < columns; ++c) {
          const double factor = 1.5 / std::sqrt(double(bounds[size_t(b) + 1] - bounds[size_t(b)]));
          const Index at = values[size_t(i)] * columns + c;
          expected.data<double>()[b * columns + c] += factor * double(table.data<TestType>()[at]);
          dexpected.data<double>()[at] += factor * double(dy.data<TestType>()[b * columns + c]);
        }
    const Tensor y = unwritten({bags, columns}, table.dtype());
    embedding_bag(ids, offsets, 1.5, table, y);
    CHECK(distance(y, expected) < tolerance<TestType>);
    embedding_bag_backward(dy, ids, offsets, 1.5, dtable);
    CHECK(distance(dtable, dexpected) < 10 * tolerance<TestType>);
  }
}

TEST_CASE("an embedding bag refuses ids outside the table and offsets that do not fit", "[kernels]") {
  const Tensor table = Tensor::zeros({3, 2}), y = Tensor::zeros({1, 2});
  const auto bag = [&](std::vector<std::int32_t> ids, std::vector<std::int32_t> bounds) {
    embedding_bag(Tensor::of<std::int32_t>({Index(ids.size())}, ids),
                  Tensor::of<std::int32_t>({Index(bounds.size())}, bounds), 1, table, y);
  };
  CHECK_NOTHROW(bag({0, 2}, {0, 2}));
  CHECK_THROWS_WITH(bag({0, 3}, {0, 2}), "embedding_bag: id 3 at row 1 is outside the table of 3");
  CHECK_THROWS_WITH(bag({0, 2}, {0, 1}), "embedding_bag: offsets must rise from 0 to 2");
  CHECK_THROWS_AS(bag({0, 2}, {1, 2}), Error);
  CHECK_THROWS_AS(bag({0, 2}, {0, 1, 2}), Error);  // two bags for one row of y
}

}  // namespace
}  // namespace conclave::kernels

#include "core/kernels/lstm.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "core/kernels/vector_math.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

struct Recurrence {
  Tensor y, cells, gates, dprojected, drecurrent;
};

// The recurrence and its derivative, row by row, in f64.
Recurrence reference_lstm(const Tensor& projected, const std::vector<Index>& groups,
                          const std::vector<Index>& sequences, const Tensor& recurrent, const Tensor& dy) {
  const Tensor p = projected.to(DType::f64), w = recurrent.to(DType::f64), up = dy.to(DType::f64);
  const Index rows = p.size(0), hidden = w.size(2), four = 4 * hidden;
  const auto zeros = [](const Shape& shape) { return Tensor::zeros(shape, DType::f64); };
  Recurrence r{zeros({rows, hidden}), zeros({rows, hidden}), zeros({rows, four}), zeros({rows, four}),
               zeros(w.shape())};
  double *h = r.y.data<double>(), *c = r.cells.data<double>(), *gate = r.gates.data<double>(),
         *dz = r.dprojected.data<double>();
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
    const double* weight = w.data<double>() + Index(g) * four * hidden;
    double* dweight = r.drecurrent.data<double>() + Index(g) * four * hidden;
    for (std::size_t s = 0; s + 1 < sequences.size(); ++s) {
      const Index begin = sequences[s], end = sequences[s + 1];
      if (begin < groups[g] || begin >= groups[g + 1]) continue;
      for (Index row = begin; row < end; ++row) {
        for (Index k = 0; k < four; ++k) {
          double z = p.data<double>()[row * four + k];
          for (Index x = 0; x < hidden && row > begin; ++x)
            z += weight[k * hidden + x] * h[(row - 1) * hidden + x];
          gate[row * four + k] = k / hidden == 2 ? std::tanh(z) : sigmoid(z);
        }
        for (Index u = 0; u < hidden; ++u) {
          const double* a = gate + row * four + u;
          const double before = row > begin ? c[(row - 1) * hidden + u] : 0;
          c[row * hidden + u] = a[hidden] * before + a[0] * a[2 * hidden];
          h[row * hidden + u] = a[3 * hidden] * std::tanh(c[row * hidden + u]);
        }
      }
      std::vector<double> dh(size_t(hidden), 0), dc(size_t(hidden), 0);
      for (Index row = end - 1; row >= begin; --row) {
        for (Index u = 0; u < hidden; ++u) {
          const double* a = gate + row * four + u;
          const double i = a[0], f = a[hidden], cell = a[2 * hidden], o = a[3 * hidden];
          const double t = std::tanh(c[row * hidden + u]),
                       before = row > begin ? c[(row - 1) * hidden + u] : 0;
          const double from = up.data<double>()[row * hidden + u] + dh[size_t(u)];
          const double d = dc[size_t(u)] + from * o * (1 - t * t);
          double* to = dz + row * four + u;
          to[0] = d * cell * i * (1 - i);
          to[hidden] = d * before * f * (1 - f);
          to[2 * hidden] = d * i * (1 - cell * cell);
          to[3 * hidden] = from * t * o * (1 - o);
          dc[size_t(u)] = d * f;
        }
        std::fill(dh.begin(), dh.end(), 0.0);
        for (Index k = 0; k < four && row > begin; ++k)
          for (Index x = 0; x < hidden; ++x) {
            dh[size_t(x)] += dz[row * four + k] * weight[k * hidden + x];
            dweight[k * hidden + x] += dz[row * four + k] * h[(row - 1) * hidden + x];
          }
      }
    }
  }
  return r;
}

struct LstmCase {
  std::vector<Index> groups, sequences;
  Index hidden;
};

// Sequences of 1 to 9 rows, `count` of them for each group.
LstmCase uneven(const std::vector<Index>& counts, Index hidden) {
  LstmCase c{{0}, {0}, hidden};
  for (const Index count : counts) {
    for (Index s = 0; s < count; ++s) c.sequences.push_back(c.sequences.back() + 1 + s * s % 9);
    c.groups.push_back(c.sequences.back());
  }
  return c;
}

TEMPLATE_TEST_CASE("lstm and its derivative follow their equations", "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  const LstmCase cases[] = {{{0, 1}, {0, 1}, 1},
                            {{0, 0}, {0}, 3},                                   // no rows
                            {{0}, {0, 0, 0}, 3},                                // no groups, empty sequences
                            {{0, 0, 5, 5, 9, 9}, {0, 0, 2, 5, 5, 5, 9, 9}, 5},  // empty groups and sequences
                            {{0, 300}, {0, 300}, 20},                           // one long sequence
                            {{0, 4}, {0, 1, 2, 3, 4}, 17},                      // sequences of one step
                            uneven({7, 0, 60, 1}, 16),                          // more than one task
                            uneven({3, 131}, 90)};  // more than one block in the backward pass
  for (const auto& [groups, sequences, hidden] : cases) {
    const Index rows = groups.back(), count = Index(sequences.size()) - 1, experts = Index(groups.size()) - 1;
    CAPTURE(rows, count, experts, hidden);
    const Tensor projected = random_values({rows, 4 * hidden}, 1, dtype),
                 recurrent = random_values({experts, 4 * hidden, hidden}, 2, dtype, 0.3),
                 dy = random_values({rows, hidden}, 3, dtype);
    const Recurrence expected = reference_lstm(projected, groups, sequences, recurrent, dy);
    const Tensor y = unwritten({rows, hidden}, dtype), cells = y.clone(),
                 gates = unwritten(projected.shape(), dtype);
    const Tensor order = Tensor::empty({count}, DType::i32);
    lstm(projected, groups, sequences, recurrent, y, cells, gates, order,
         unwritten(lstm_scratch(recurrent, count), dtype));
    CHECK(distance(y, expected.y) < tolerance<TestType>);
    CHECK(distance(cells, expected.cells) < tolerance<TestType>);
    CHECK(distance(gates, expected.gates) < tolerance<TestType>);
    const Tensor alone = unwritten(y.shape(), dtype);
    lstm(projected, groups, sequences, recurrent, alone, unwritten(cells.shape(), dtype), Tensor(), order,
         unwritten(lstm_scratch(recurrent, count), dtype));
    CHECK(same_bits(alone, y));

    const Tensor before = random_values(recurrent.shape(), 4, dtype);
    const Tensor dprojected = unwritten(projected.shape(), dtype), drecurrent = before.clone();
    const auto back = [&](const Tensor& dweight) {
      lstm_backward(dy, groups, sequences, recurrent, y, cells, gates, order, dprojected, dweight,
                    unwritten(lstm_backward_scratch(recurrent, count, rows), dtype));
    };
    back(drecurrent);
    CHECK(distance(dprojected, expected.dprojected) < 10 * tolerance<TestType>);
    CHECK(distance(drecurrent, plus(before, expected.drecurrent)) < 10 * tolerance<TestType>);
    dprojected.fill(0);
    back(Tensor());
    CHECK(distance(dprojected, expected.dprojected) < 10 * tolerance<TestType>);
  }
}

TEST_CASE("sigmoid and tanh in f32 are within 3 units in the last place", "[kernels]") {
  const auto units = [](float actual, double expected) {
    const float nearest = static_cast<float>(expected);
    return std::fabs(actual - expected) / (std::nextafter(std::fabs(nearest), 1e30f) - std::fabs(nearest));
  };
  double sigmoid = 0, tangent = 0;
  for (Index i = -400000; i <= 400000; ++i) {
    const float x = static_cast<float>(i) * 2e-4f, small = x * 1e-3f;  // up to 80 and up to 0.08
    sigmoid = std::max(sigmoid, units(vector_sigmoid(x), 1 / (1 + std::exp(-double(x)))));
    tangent = std::max(tangent, units(vector_tanh(x), std::tanh(double(x))));
    tangent = std::max(tangent, units(vector_tanh(small), std::tanh(double(small))));
  }
  CHECK(sigmoid <= 3);
  CHECK(tangent <= 3);
  CHECK(vector_sigmoid(-1e4f) == Approx(0).margin(1e-37));
  CHECK(vector_sigmoid(1e4f) == 1);
  CHECK(vector_tanh(-1e4f) == -1);
  CHECK(vector_tanh(1e4f) == 1);
  CHECK(std::isnan(vector_sigmoid(std::nanf(""))));
  CHECK(std::isnan(vector_tanh(std::nanf(""))));
}

TEST_CASE("lstm refuses shapes and offsets that do not fit", "[kernels]") {
  const Tensor projected = Tensor::zeros({6, 8}), recurrent = Tensor::zeros({2, 8, 2}),
               y = Tensor::zeros({6, 2}), cells = y.clone(), gates = projected.clone();
  const auto run = [&](std::vector<Index> groups, std::vector<Index> sequences, const Tensor& z,
                       const Tensor& w) {
    const Index count = std::max<Index>(Index(sequences.size()) - 1, 0);
    lstm(z, groups, sequences, w, y, cells, gates, Tensor::empty({count}, DType::i32),
         Tensor::empty(lstm_scratch(recurrent, count)));
  };
  CHECK_NOTHROW(run({0, 3, 6}, {0, 1, 3, 6}, projected, recurrent));
  CHECK_THROWS_WITH(run({0, 4, 6}, {0, 1, 3, 6}, projected, recurrent),
                    "lstm: group 1 begins at row 4, within the sequence of rows [3, 6)");
  CHECK_THROWS_WITH(run({0, 6}, {0, 6}, projected, recurrent),
                    "lstm: groups must rise from 0 to 6 in 3 entries");
  CHECK_THROWS_WITH(run({0, 3, 6}, {0, 3, 5}, projected, recurrent),
                    "lstm: sequences must rise from 0 to 6 in 3 entries");
  CHECK_THROWS_WITH(run({0, 3, 6}, {0, 3, 2, 6}, projected, recurrent),
                    "lstm: sequences must rise from 0 to 6 in 4 entries");
  CHECK_THROWS_WITH(run({0, 3, 6}, {}, projected, recurrent),
                    "lstm: sequences must rise from 0 to 6 in 1 entries");
  CHECK_THROWS_WITH(run({0, 3, 6}, {0, 3, 6}, Tensor::zeros({6, 6}), recurrent),
                    "lstm: projected is f32 [6, 6], expected f32 [6, 8]");
  CHECK_THROWS_WITH(run({0, 3, 6}, {0, 3, 6}, projected, Tensor::zeros({2, 6, 2})),
                    "lstm: recurrent is f32 [2, 6, 2], expected f32 [2, 8, 2]");
  CHECK_THROWS_WITH(lstm(projected, std::vector<Index>{0, 3, 6}, std::vector<Index>{0, 3, 6}, recurrent, y,
                         cells, gates, Tensor::empty({2}, DType::i32), Tensor::empty({7})),
                    Catch::StartsWith("lstm: scratch is f32 [7], expected"));
}

}  // namespace
}  // namespace conclave::kernels

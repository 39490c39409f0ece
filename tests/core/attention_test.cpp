#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "core/kernels/attention.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

using Bounds = std::vector<std::int32_t>;

Tensor offsets_of(const Bounds& bounds) { return Tensor::of<std::int32_t>({Index(bounds.size())}, bounds); }

struct Attended {
  Tensor out, lse, dq, dk, dv;
};

// Equation 1 of the paper and its derivative for every sequence and head, in f64, with all scores in memory.
Attended reference_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds,
                             const Bounds& key_bounds, AttentionOptions options, const Tensor& dout) {
  const Index hidden = q.size(1), d = hidden / options.heads;
  const auto zeros = [](Index rows, Index columns) { return Tensor::zeros({rows, columns}, DType::f64); };
  Attended r{zeros(q.size(0), hidden), zeros(q.size(0), options.heads), zeros(q.size(0), hidden),
             zeros(k.size(0), hidden), zeros(k.size(0), hidden)};
  const Tensor q64 = q.to(DType::f64), k64 = k.to(DType::f64), v64 = v.to(DType::f64),
               dout64 = dout.to(DType::f64);
  const double scale = 1 / std::sqrt(double(d));
  for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
    const Index queries = bounds[s + 1] - bounds[s], keys = key_bounds[s + 1] - key_bounds[s];
    for (Index head = 0; head < options.heads; ++head) {
      const auto query = [&](const Tensor& t, Index i, Index x) -> double& {
        return t.data<double>()[(bounds[s] + i) * hidden + head * d + x];
      };
      const auto key = [&](const Tensor& t, Index j, Index x) -> double& {
        return t.data<double>()[(key_bounds[s] + j) * hidden + head * d + x];
      };
      for (Index i = 0; i < queries; ++i) {
        const Index end = options.mask == AttentionMask::causal ? i + 1 + keys - queries : keys;
        if (end <= 0) continue;
        std::vector<double> p, dp;
        double sum = 0, dot = 0;
        for (Index j = 0; j < end; ++j) {
          double score = 0;
          for (Index x = 0; x < d; ++x) score += scale * query(q64, i, x) * key(k64, j, x);
          p.push_back(std::exp(score));
          sum += p.back();
        }
        r.lse.data<double>()[(bounds[s] + i) * options.heads + head] = std::log(sum);
        for (Index j = 0; j < end; ++j) {
          double& probability = p[size_t(j)];
          probability /= sum;
          double up = 0;
          for (Index x = 0; x < d; ++x) {
            const double g = query(dout64, i, x);
            query(r.out, i, x) += probability * key(v64, j, x);
            key(r.dv, j, x) += probability * g;
            up += g * key(v64, j, x);
          }
          dp.push_back(up);
          dot += probability * up;
        }
        for (Index j = 0; j < end; ++j) {
          const double ds = p[size_t(j)] * (dp[size_t(j)] - dot) * scale;
          for (Index x = 0; x < d; ++x) {
            query(r.dq, i, x) += ds * key(k64, j, x);
            key(r.dk, j, x) += ds * query(q64, i, x);
          }
        }
      }
    }
  }
  return r;
}

// Columns [begin, begin + count) of a wider tensor.
Tensor columns(const Tensor& wide, Index begin, Index count) { return wide.slice(1, begin, begin + count); }

TEMPLATE_TEST_CASE("attention over packed sequences agrees with equation 1 and its derivative", "[kernels]",
                   float, double) {
  const DType dtype = dtype_of<TestType>;
  struct Case {
    Bounds bounds;
    Index hidden, heads;
  };
  const Case cases[] = {{{0, 1}, 1, 1},
                        {{0, 3, 3, 10}, 6, 2},        // with an empty sequence
                        {{0, 0}, 4, 1},               // no tokens
                        {{0, 64, 129, 130}, 15, 3},   // at and just above one block of keys
                        {{0, 17, 100}, 140, 2},       // a head wider than a block, with incomplete blocks
                        {{0, 63, 263, 400}, 32, 2}};  // several blocks, several threads
  for (const auto& [bounds, hidden, heads] : cases) {
    for (const AttentionMask mask : {AttentionMask::none, AttentionMask::causal}) {
      const Index tokens = bounds.back();
      CAPTURE(tokens, hidden, heads, int(mask));
      const AttentionOptions options{heads, mask};
      const Tensor qkv = random_values({tokens, 3 * hidden}, 1, dtype),
                   dout = random_values({tokens, hidden}, 2, dtype), offsets = offsets_of(bounds);
      const Attended expected =
          reference_attention(columns(qkv, 0, hidden), columns(qkv, hidden, hidden),
                              columns(qkv, 2 * hidden, hidden), bounds, bounds, options, dout);
      const Tensor out = unwritten({tokens, hidden}, dtype), lse = unwritten({tokens, heads}, dtype);
      attention(qkv, offsets, options, out, lse);
      CHECK(distance(out, expected.out) < tolerance<TestType>);
      CHECK(distance(lse, expected.lse) < tolerance<TestType>);
      const Tensor dqkv = unwritten(qkv.shape(), dtype);
      attention_backward(dout, qkv, offsets, options, out, lse, dqkv);
      CHECK(distance(columns(dqkv, 0, hidden), expected.dq) < 3 * tolerance<TestType>);
      CHECK(distance(columns(dqkv, hidden, hidden), expected.dk) < 3 * tolerance<TestType>);
      CHECK(distance(columns(dqkv, 2 * hidden, hidden), expected.dv) < 3 * tolerance<TestType>);
    }
  }
}

TEMPLATE_TEST_CASE("attention with separate keys agrees with equation 1 and writes only its columns",
                   "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  struct Case {
    Bounds bounds, key_bounds;
    Index hidden, heads;
  };
  const Case cases[] = {
      {{0, 1}, {0, 1}, 1, 1},
      {{0, 3, 5, 5, 6}, {0, 4, 4, 9, 10}, 6, 2},  // a sequence without keys, one without queries
      {{0, 2}, {0, 0}, 4, 1},                     // no keys at all
      {{0, 0}, {0, 2}, 4, 1},                     // no queries at all
      {{0, 1, 2}, {0, 130, 131}, 16, 2},          // one query, many keys
      {{0, 70, 200}, {0, 133, 330}, 15, 3},       // blocks of queries and keys do not align
      {{0, 100, 130}, {0, 30, 60}, 8, 1},         // causal: most queries see no key
      {{0, 5, 205}, {0, 90, 400}, 32, 2}};        // several threads
  for (const auto& [bounds, key_bounds, hidden, heads] : cases) {
    for (const AttentionMask mask : {AttentionMask::none, AttentionMask::causal}) {
      const Index rows = bounds.back(), key_rows = key_bounds.back();
      CAPTURE(rows, key_rows, hidden, heads, int(mask));
      const AttentionOptions options{heads, mask};
      const Shape wide{rows, hidden + 3}, key_wide{key_rows, 2 * hidden + 1};
      const Tensor queries = random_values(wide, 1, dtype), pairs = random_values(key_wide, 2, dtype),
                   dout = random_values({rows, hidden}, 3, dtype);
      const auto q_of = [hidden = hidden](const Tensor& t) { return columns(t, 2, hidden); };
      const auto k_of = [hidden = hidden](const Tensor& t) { return columns(t, 1, hidden); };
      const auto v_of = [hidden = hidden](const Tensor& t) { return columns(t, 1 + hidden, hidden); };
      const Tensor q = q_of(queries), k = k_of(pairs), v = v_of(pairs);
      const Attended expected = reference_attention(q, k, v, bounds, key_bounds, options, dout);
      const Tensor out = unwritten({rows, hidden}, dtype), lse = unwritten({rows, heads}, dtype),
                   offsets = offsets_of(bounds), key_offsets = offsets_of(key_bounds);
      attention(q, k, v, offsets, key_offsets, options, out, lse);
      CHECK(distance(out, expected.out) < tolerance<TestType>);
      CHECK(distance(lse, expected.lse) < tolerance<TestType>);
      const Tensor dqueries = queries.clone(), dpairs = pairs.clone();
      attention_backward(dout, q, k, v, offsets, key_offsets, options, out, lse, q_of(dqueries), k_of(dpairs),
                         v_of(dpairs));
      CHECK(distance(q_of(dqueries), expected.dq) < 3 * tolerance<TestType>);
      CHECK(distance(k_of(dpairs), expected.dk) < 3 * tolerance<TestType>);
      CHECK(distance(v_of(dpairs), expected.dv) < 3 * tolerance<TestType>);
      for (const Index other : {Index{0}, Index{1}, hidden + 2})
        CHECK(same_bits(columns(dqueries, other, 1).clone(), columns(queries, other, 1).clone()));
      CHECK(same_bits(columns(dpairs, 0, 1).clone(), columns(pairs, 0, 1).clone()));
    }
  }
}

TEMPLATE_TEST_CASE("decoding token by token with cached keys and values equals causal attention", "[kernels]",
                   float, double) {
  const DType dtype = dtype_of<TestType>;
  const Index tokens = 70, hidden = 8;
  const AttentionOptions options{2, AttentionMask::causal};
  const Tensor qkv = random_values({tokens, 3 * hidden}, 1, dtype), out = unwritten({tokens, hidden}, dtype),
               lse = unwritten({tokens, 2}, dtype);
  attention(qkv, offsets_of({0, 70}), options, out, lse);
  for (Index t = 0; t < tokens; ++t) {
    const Tensor seen = qkv.rows(0, t + 1), row = unwritten({1, hidden}, dtype);
    attention(columns(qkv.rows(t, t + 1), 0, hidden), columns(seen, hidden, hidden),
              columns(seen, 2 * hidden, hidden), offsets_of({0, 1}), offsets_of({0, std::int32_t(t + 1)}),
              options, row, unwritten({1, 2}, dtype));
    REQUIRE(distance(row, out.rows(t, t + 1)) < tolerance<TestType>);
  }
}

TEMPLATE_TEST_CASE("attention with large scores does not overflow and keeps earlier blocks", "[kernels]",
                   float, double) {
  // 130 keys with scores that rise to several thousand, so each block has a new maximum.
  const Index tokens = 130, hidden = 2;
  const Tensor qkv = Tensor::zeros({tokens, 3 * hidden}, dtype_of<TestType>);
  for (Index t = 0; t < tokens; ++t) {
    TestType* row = qkv.data<TestType>() + t * 3 * hidden;
    row[0] = 100;
    row[2] = TestType(t);
    row[4] = TestType(t);
  }
  const Tensor out = unwritten({tokens, hidden}, qkv.dtype()), lse = unwritten({tokens, 1}, qkv.dtype());
  attention(qkv, Tensor::of<std::int32_t>({2}, {0, 130}), {}, out, lse);
  for (Index t = 0; t < tokens; ++t)
    REQUIRE(double(out.data<TestType>()[t * hidden]) == Approx(129).epsilon(1e-6));
}

TEST_CASE("attention refuses shapes and offsets that do not fit", "[kernels]") {
  const Tensor qkv = Tensor::zeros({4, 24}), out = Tensor::zeros({4, 8}), lse = Tensor::zeros({4, 2});
  CHECK_THROWS_WITH(attention(qkv, offsets_of({0, 4}), {.heads = 3}, out, lse),
                    "attention: qkv [4, 24] does not divide into query, key and value of 3 heads");
  for (const Bounds& wrong : {Bounds{0, 5}, {1, 4}, {0, 3, 2, 4}})
    CHECK_THROWS_WITH(attention(qkv, offsets_of(wrong), {.heads = 2}, out, lse),
                      "attention: offsets must rise from 0 to 4");
  CHECK_THROWS_WITH(attention(qkv, offsets_of({0, 4}), {.heads = 2}, out, Tensor::zeros({4, 1})),
                    "attention: lse is f32 [4, 1], expected f32 [4, 2]");

  const auto attend = [&](const Tensor& k, const Tensor& v, const Bounds& key_bounds, Index heads = 2) {
    attention(qkv.slice(1, 0, 8), k, v, offsets_of({0, 4}), offsets_of(key_bounds), {heads}, out, lse);
  };
  const Tensor keys = Tensor::zeros({6, 8});
  CHECK_THROWS_WITH(attend(keys, keys, {0, 6}, 3), "attention: q [4, 8] does not divide into 3 heads");
  CHECK_THROWS_WITH(attend(keys, keys.rows(0, 5), {0, 6}),
                    "attention: v is f32 [5, 8], expected f32 [6, 8] with contiguous rows");
  CHECK_THROWS_WITH(attend(keys, Tensor::zeros({8, 6}).transpose(0, 1), {0, 6}),
                    "attention: v is f32 [6, 8], expected f32 [6, 8] with contiguous rows");
  CHECK_THROWS_WITH(attend(keys, keys, {0, 4}), "attention: key offsets must rise from 0 to 6");
  CHECK_THROWS_WITH(attend(keys, keys, {0, 4, 6}), "attention: 1 sequences of queries, but 2 of keys");
}

}  // namespace
}  // namespace conclave::kernels

#include <catch2/catch.hpp>
#include <vector>

#include "core/kernels/attention.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

struct Attended {
  Tensor out, lse, dqkv;
};

// Equation 1 of the paper and its derivative for every sequence and head, in f64, with all scores in memory.
Attended reference_attention(const Tensor& qkv32, const std::vector<std::int32_t>& bounds,
                             AttentionOptions options, const Tensor& dout32) {
  const Tensor qkv = qkv32.to(DType::f64), dout = dout32.to(DType::f64);
  const Index tokens = qkv.size(0), hidden = qkv.size(1) / 3, d = hidden / options.heads;
  Attended r{Tensor::zeros({tokens, hidden}, DType::f64), Tensor::zeros({tokens, options.heads}, DType::f64),
             Tensor::zeros({tokens, 3 * hidden}, DType::f64)};
  const double scale = 1 / std::sqrt(double(d));
  for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
    for (Index head = 0; head < options.heads; ++head) {
      // part 0: query, 1: key, 2: value
      const auto at = [&](const Tensor& t, int part, Index token, Index x) -> double& {
        return t.data<double>()[token * 3 * hidden + part * hidden + head * d + x];
      };
      for (Index i = bounds[s]; i < bounds[s + 1]; ++i) {
        const Index end = options.mask == AttentionMask::causal ? i + 1 : bounds[s + 1];
        std::vector<double> p, dp;
        double sum = 0, dot = 0;
        for (Index j = bounds[s]; j < end; ++j) {
          double score = 0;
          for (Index x = 0; x < d; ++x) score += scale * at(qkv, 0, i, x) * at(qkv, 1, j, x);
          p.push_back(std::exp(score));
          sum += p.back();
        }
        r.lse.data<double>()[i * options.heads + head] = std::log(sum);
        for (Index j = bounds[s]; j < end; ++j) {
          double& probability = p[size_t(j - bounds[s])];
          probability /= sum;
          double up = 0;
          for (Index x = 0; x < d; ++x) {
            const double g = dout.data<double>()[i * hidden + head * d + x];
            r.out.data<double>()[i * hidden + head * d + x] += probability * at(qkv, 2, j, x);
            at(r.dqkv, 2, j, x) += probability * g;
            up += g * at(qkv, 2, j, x);
          }
          dp.push_back(up);
          dot += probability * up;
        }
        for (Index j = bounds[s]; j < end; ++j) {
          const double ds = p[size_t(j - bounds[s])] * (dp[size_t(j - bounds[s])] - dot) * scale;
          for (Index x = 0; x < d; ++x) {
            at(r.dqkv, 0, i, x) += ds * at(qkv, 1, j, x);
            at(r.dqkv, 1, j, x) += ds * at(qkv, 0, i, x);
          }
        }
      }
    }
  }
  return r;
}

TEMPLATE_TEST_CASE("attention over packed sequences agrees with equation 1 and its derivative", "[kernels]",
                   float, double) {
  const DType dtype = dtype_of<TestType>;
  struct Case {
    std::vector<std::int32_t> bounds;
    Index hidden, heads;
  };
  const Case cases[] = {{{0, 1}, 1, 1},
                        {{0, 3, 3, 10}, 6, 2},        // with an empty sequence
                        {{0, 0}, 4, 1},               // nothing at all
                        {{0, 64, 129, 130}, 15, 3},   // at and just above one block of keys
                        {{0, 17, 100}, 140, 2},       // a head beyond one block, and with odd ends
                        {{0, 63, 263, 400}, 32, 2}};  // several blocks, several threads
  for (const auto& [bounds, hidden, heads] : cases) {
    for (const AttentionMask mask : {AttentionMask::none, AttentionMask::causal}) {
      const Index tokens = bounds.back();
      CAPTURE(tokens, hidden, heads, int(mask));
      const AttentionOptions options{heads, mask};
      const Tensor qkv = random_values({tokens, 3 * hidden}, 1, dtype),
                   dout = random_values({tokens, hidden}, 2, dtype);
      const Tensor offsets = Tensor::of<std::int32_t>({Index(bounds.size())}, bounds);
      const Attended expected = reference_attention(qkv, bounds, options, dout);
      const Tensor out = unwritten({tokens, hidden}, dtype), lse = unwritten({tokens, heads}, dtype);
      attention(qkv, offsets, options, out, lse);
      CHECK(distance(out, expected.out) < tolerance<TestType>);
      CHECK(distance(lse, expected.lse) < tolerance<TestType>);
      const Tensor dqkv = unwritten(qkv.shape(), dtype);
      attention_backward(dout, qkv, offsets, options, out, lse, dqkv);
      CHECK(distance(dqkv, expected.dqkv) < 3 * tolerance<TestType>);
    }
  }
}

TEMPLATE_TEST_CASE("attention with large scores neither overflows nor forgets", "[kernels]", float, double) {
  // 130 keys whose scores rise to several thousand: each block's largest replaces the one before
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
  const auto offsets = [](std::initializer_list<std::int32_t> values) {
    return Tensor::of<std::int32_t>({Index(values.size())}, values);
  };
  CHECK_THROWS_WITH(attention(qkv, offsets({0, 4}), {.heads = 3}, out, lse),
                    "attention: qkv [4, 24] does not divide into query, key and value of 3 heads");
  for (const Tensor& wrong : {offsets({0, 5}), offsets({1, 4}), offsets({0, 3, 2, 4})})
    CHECK_THROWS_WITH(attention(qkv, wrong, {.heads = 2}, out, lse),
                      "attention: offsets must rise from 0 to 4");
  CHECK_THROWS_WITH(attention(qkv, offsets({0, 4}), {.heads = 2}, out, Tensor::zeros({4, 1})),
                    "attention: lse is f32 [4, 1], expected f32 [4, 2]");
}

}  // namespace
}  // namespace conclave::kernels

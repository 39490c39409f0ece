// Numbers of parameters and floating point operations of modules, against counts by hand.
#include <catch2/catch.hpp>

#include "autograd/nn/vision_layers.h"

namespace conclave {
namespace {

struct CountedCost {
  Index parameters;
  double flops;
  Extent out = {};
};

void check(const Module& module, Extent extent, const CountedCost& expected) {
  CHECK(module.parameter_count() == expected.parameters);
  CHECK(module.flops(extent) == expected.flops);
  CHECK(extent.height == expected.out.height);
  CHECK(extent.width == expected.out.width);
}

TEST_CASE("text layers cost as much as their products", "[flops]") {
  const Extent text{1, 6};
  check(Linear(3, 5), text, {3 * 5 + 5, 6 * 2.0 * 3 * 5, text});
  check(Linear(3, 5, false), text, {3 * 5, 6 * 2.0 * 3 * 5, text});
  check(Embedding(100, 8), text, {800, 0, text});
  check(LayerNorm(8), text, {16, 0, text});
  check(FeedForward(8, 20), text, {8 * 20 + 20 + 20 * 8 + 8, 6 * 2.0 * 2 * 8 * 20, text});
  const double projections = 6 * 2.0 * 4 * 8 * 8;
  check(MultiHeadAttention(8, 2), text, {4 * 8 * 8 + 4 * 8, projections + 36 * 2.0 * 2 * 8, text});
  const MultiHeadAttention causal(8, 2, kernels::AttentionMask::causal);
  check(causal, text, {4 * 8 * 8 + 4 * 8, projections + 21 * 2.0 * 2 * 8, text});
  check(TransformerBlock(8, 2, 20, 0.1), text,
        {288 + 348 + 2 * 16, projections + 36 * 2.0 * 2 * 8 + 6 * 2.0 * 2 * 8 * 20, text});
  check(CrossAttention(8, 2), text, {6 * 8 * 8 + 6 * 8, 2 * projections + 2 * 36 * 2.0 * 2 * 8, text});
  CHECK(CrossAttention(8, 2).flops({1, 6}, {2, 2}) ==
        projections + 4 * 2.0 * 4 * 8 * 8 + 2 * 6 * 4 * 2.0 * 2 * 8);
  Extent mean = text;
  CHECK(MultiHeadAttention(8, 2).mean_flops(mean) == 6 * 2.0 * 3 * 8 * 8 + 36 * 2.0 * 2 * 8 + 2.0 * 8 * 8);
  CHECK(mean.rows() == 1);
}

TEST_CASE("image layers cost as much as all positions of their windows", "[flops]") {
  const Extent image{28, 13}, half{14, 7};
  check(Convolution(3, 16, same_window(3, 2)), image, {27 * 16 + 16, 14 * 7 * 2.0 * 27 * 16, half});
  check(Convolution(3, 16), image, {3 * 16 + 16, 28 * 13 * 2.0 * 3 * 16, image});
  check(Depthwise(16, same_window(5)), image, {25 * 16, 28 * 13 * 2.0 * 25 * 16, image});
  check(GroupNorm(16, 2), image, {32, 0, image});
  check(BatchNorm(16), image, {32, 0, image});
  check(SqueezeExcite(16), image, {16 * 4 + 4 + 4 * 16 + 16, 2 * 2.0 * 16 * 4, image});
}

TEST_CASE("a full convolution costs the number of channels times a depthwise one", "[flops]") {
  const Extent image{28, 13}, half{14, 7};
  const double expand = 28 * 13 * 2.0 * 8 * 32, window = 14 * 7 * 2.0 * 9 * 32, squeeze = 2 * 2.0 * 32 * 8,
               project = 14 * 7 * 2.0 * 32 * 16;
  InvertedResidualOptions options{.in = 8, .out = 16, .stride = 2, .squeeze_excite = true};
  const Index others = 8 * 32 + 64 + 64 + (32 * 8 + 8 + 8 * 32 + 32) + 32 * 16 + 32;
  check(InvertedResidual(options), image, {others + 9 * 32, expand + window + squeeze + project, half});
  options.depthwise = false;
  check(InvertedResidual(options), image,
        {others + 9 * 32 * 32, expand + 32 * window + squeeze + project, half});
}

}  // namespace
}  // namespace conclave

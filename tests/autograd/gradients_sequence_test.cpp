// Normalization, attention, dropout, look-ups, pooling and the loss against their numerical derivatives.
#include <catch2/catch.hpp>

#include "autograd/nn/layers.h"
#include "autograd/nn/parameter_set.h"
#include "core/random.h"
#include "tests/autograd/gradient.h"

namespace conclave {
namespace {

using kernels::AttentionMask;

TEST_CASE("layer_norm: gradients of input, gain and bias, with and without GELU", "[gradient]") {
  for (const bool gelu : {false, true}) {
    for (const Shape& shape : {Shape{1, 3}, Shape{4, 8}, Shape{9, 5}, Shape{0, 4}}) {
      CAPTURE(gelu, shape.to_string());
      CHECK(gradient_error(
                [=](Tape& t, Inputs v) {
                  return functions::layer_norm(t, v[0], v[1], v[2], {.epsilon = 1e-2, .gelu = gelu});
                },
                {random_values(shape, 1), random_values({shape[1]}, 2), random_values({shape[1]}, 3)}) <
            kGradientTolerance);
    }
    const Tensor gamma = kept(random_values({6}, 2)), beta = kept(random_values({6}, 3)),
                 x = kept(random_values({3, 6}, 1));
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) { return functions::layer_norm(t, v[0], gamma, beta, {.gelu = gelu}); },
              {x}) < kGradientTolerance);
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) { return functions::layer_norm(t, x, v[0], beta, {.gelu = gelu}); },
              {gamma}) < kGradientTolerance);
    // Two norms share a gain, and the input has another use.
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) {
                const Tensor y = functions::layer_norm(t, v[0], v[1], beta, {.gelu = gelu});
                return functions::add(t, functions::layer_norm(t, functions::add(t, y, v[0]), v[1], beta),
                                      v[0]);
              },
              {random_values({3, 6}, 4), gamma}) < kGradientTolerance);
  }
}

TEST_CASE("softmax: gradient", "[gradient]") {
  for (const Shape& shape : {Shape{1, 1}, Shape{4, 6}, Shape{0, 3}})
    CHECK(gradient_error([](Tape& t, Inputs v) { return functions::softmax(t, v[0]); },
                         {random_values(shape, 1)}) < kGradientTolerance);
  CHECK(gradient_error([](Tape& t, Inputs v) { return functions::add(t, functions::softmax(t, v[0]), v[0]); },
                       {random_values({3, 4}, 1)}) < kGradientTolerance);
}

TEST_CASE("attention: gradients, plain and causal, over sequences of every length", "[gradient]") {
  struct Case {
    std::vector<std::int32_t> bounds;
    Index hidden, heads;
  };
  // An empty sequence, a single token, and a sequence slightly longer than the kernel's block of 64 keys.
  for (const auto& [bounds, hidden, heads] :
       {Case{{0, 3, 3, 4, 9}, 6, 2}, Case{{0, 5}, 4, 4}, Case{{0, 66, 68}, 2, 1}}) {
    for (const AttentionMask mask : {AttentionMask::none, AttentionMask::causal}) {
      CAPTURE(bounds.back(), int(mask));
      const Tensor offsets = kept_ids(bounds);
      CHECK(gradient_error(
                [=](Tape& t, Inputs v) {
                  return functions::attention(t, v[0], offsets, {heads, mask});
                },
                {random_values({bounds.back(), 3 * hidden}, 1)}) < kGradientTolerance);
    }
  }
}

TEST_CASE("attention: its input may have another use", "[gradient]") {
  const Tensor offsets = kept_ids({0, 2, 5});
  for (const bool attention_first : {true, false})
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) {
                const auto attend = [&] { return functions::attention(t, v[0], offsets, {.heads = 2}); };
                const auto other = [&] { return functions::matmul(t, v[0], v[1]); };
                const Tensor first = attention_first ? attend() : other(),
                             second = attention_first ? other() : attend();
                return functions::add(t, first, second);
              },
              {random_values({5, 12}, 1), random_values({12, 4}, 2)}) < kGradientTolerance);
}

TEST_CASE("attention: gradients of queries, keys and values in separate tensors", "[gradient]") {
  struct Case {
    std::vector<std::int32_t> bounds, key_bounds;
    Index hidden, heads;
  };
  // Sequences without keys and without queries, causal ones with fewer keys than queries, and two blocks of
  // keys.
  for (const auto& [bounds, key_bounds, hidden, heads] :
       {Case{{0, 3, 5, 5, 6, 9}, {0, 4, 4, 6, 7, 9}, 4, 2}, Case{{0, 2}, {0, 67}, 2, 1},
        Case{{0, 2}, {0, 0}, 2, 1}}) {
    for (const AttentionMask mask : {AttentionMask::none, AttentionMask::causal}) {
      CAPTURE(bounds.back(), key_bounds.back(), int(mask));
      const Tensor offsets = kept_ids(bounds), key_offsets = kept_ids(key_bounds);
      const kernels::AttentionOptions options{heads, mask};
      const Tensor q = kept(random_values({bounds.back(), hidden}, 1)),
                   k = kept(random_values({key_bounds.back(), hidden}, 2)),
                   v = kept(random_values({key_bounds.back(), hidden}, 3));
      const auto attend = [=](Tape& t, const Tensor& q, const Tensor& k, const Tensor& v) {
        return functions::attention(t, q, k, v, offsets, key_offsets, options);
      };
      CHECK(gradient_error([=](Tape& t, Inputs in) { return attend(t, in[0], in[1], in[2]); }, {q, k, v}) <
            kGradientTolerance);
      CHECK(gradient_error([=](Tape& t, Inputs in) { return attend(t, in[0], k, v); }, {q}) <
            kGradientTolerance);
      CHECK(gradient_error([=](Tape& t, Inputs in) { return attend(t, q, k, in[0]); }, {v}) <
            kGradientTolerance);
      CHECK(gradient_error(
                [=](Tape& t, Inputs in) {
                  return functions::attention(t, in[0], in[1], offsets, key_offsets, options);
                },
                {q, random_values({key_bounds.back(), 2 * hidden}, 4)}) < kGradientTolerance);
    }
  }
  Arena arena("test");
  Tape tape(arena);
  CHECK_THROWS_WITH(
      functions::attention(tape, Tensor::zeros({2, 4}), Tensor::zeros({3, 4}), kept_ids({0, 2}),
                           kept_ids({0, 3}), {}),
      "attention: q [2, 4] and key_value [3, 4] must be [rows, hidden] and [key rows, 2 hidden]");
}

TEST_CASE("attention: query, key and value may be one tensor, with another use", "[gradient]") {
  const Tensor offsets = kept_ids({0, 2, 5});
  CHECK(gradient_error(
            [=](Tape& t, Inputs v) {
              return functions::add(
                  t, functions::attention(t, v[0], v[0], v[0], offsets, offsets, {.heads = 2}), v[0]);
            },
            {random_values({5, 4}, 1)}) < kGradientTolerance);
}

TEST_CASE("cross-attention: gradients of both modalities, either of which may be missing", "[gradient]") {
  const Tensor first_offsets = kept_ids({0, 3, 5, 5}), second_offsets = kept_ids({0, 2, 2, 4});
  CrossAttention layer(4, 2);
  const ParameterSet parameters(layer, DType::f64, 1);
  CHECK(gradient_error(
            [&](Tape& t, Inputs v) {
              const auto [first, second] = layer(t, v[0], first_offsets, v[1], second_offsets);
              return functions::join_rows(t, first, second);
            },
            {random_values({5, 4}, 1), random_values({4, 4}, 2)}) < kGradientTolerance);
}

TEST_CASE("lstm: gradients of input and weight, with empty groups and sequences", "[gradient]") {
  struct Case {
    std::vector<Index> groups, sequences;
    Index hidden;
  };
  for (const auto& [groups, sequences, hidden] :
       {Case{{0, 4, 4, 11}, {0, 3, 4, 4, 9, 11}, 3}, Case{{0, 2}, {0, 2}, 9}, Case{{0, 0}, {0, 0}, 2}}) {
    CAPTURE(groups.back(), hidden);
    const Index rows = groups.back(), experts = Index(groups.size()) - 1;
    const Tensor projected = kept(random_values({rows, 4 * hidden}, 1)),
                 recurrent = kept(random_values({experts, 4 * hidden, hidden}, 2, DType::f64, 0.5));
    const auto run = [&, groups = groups, sequences = sequences](Tape& t, const Tensor& z, const Tensor& w) {
      return functions::lstm(t, z, groups, sequences, w);
    };
    CHECK(gradient_error([=](Tape& t, Inputs v) { return run(t, v[0], v[1]); }, {projected, recurrent}) <
          kGradientTolerance);
    CHECK(gradient_error([=](Tape& t, Inputs v) { return run(t, v[0], recurrent); }, {projected}) <
          kGradientTolerance);
    CHECK(gradient_error([=](Tape& t, Inputs v) { return run(t, projected, v[0]); }, {recurrent}) <
          kGradientTolerance);
    // Two LSTMs share the input and the weight.
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) {
                return functions::add(t, run(t, v[0], v[1]), run(t, functions::scale(t, v[0], 0.5), v[1]));
              },
              {projected, recurrent}) < kGradientTolerance);
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) { return functions::add(t, run(t, v[0], v[1]), run(t, v[0], v[1])); },
              {projected, recurrent}) < kGradientTolerance);
  }
}

TEST_CASE("lstm: without recording, it keeps no gates and gives the same result", "[gradient]") {
  const std::vector<Index> groups{0, 2, 5}, sequences{0, 2, 3, 5};
  Tensor projected = kept(random_values({5, 12}, 1)), recurrent = kept(random_values({2, 12, 3}, 2));
  Arena arena("test"), evaluation("test");
  Tape tape(arena), quiet(evaluation, false);
  tape.watch(projected);
  const Tensor y = functions::lstm(tape, projected, groups, sequences, recurrent);
  CHECK(same_bits(functions::lstm(quiet, projected, groups, sequences, recurrent), y));
  CHECK(evaluation.used() < arena.used());
  CHECK_THROWS_WITH(functions::lstm(tape, projected, groups, {}, recurrent),
                    Catch::StartsWith("lstm: projected [5, 12], recurrent [2, 12, 3] and 0 offsets"));
}

TEST_CASE("embedding: the gradient of a row sums over its ids", "[gradient]") {
  const Tensor ids = kept_ids({2, 0, 2, 4, 2});
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::embedding(t, ids, v[0]); },
                       {random_values({6, 3}, 1)}) < kGradientTolerance);
  const Tensor others = kept_ids({1, 2, 2, 0, 5});
  CHECK(gradient_error(
            [=](Tape& t, Inputs v) {
              return functions::add(t, functions::embedding(t, ids, v[0]),
                                    functions::embedding(t, others, v[0]));
            },
            {random_values({6, 3}, 1)}) < kGradientTolerance);
}

TEST_CASE("embedding_bag: the gradient of a row sums over the bags with its id", "[gradient]") {
  const Tensor ids = kept_ids({2, 0, 2, 4, 2}), offsets = kept_ids({0, 0, 3, 4, 5, 5});
  CHECK(
      gradient_error([=](Tape& t, Inputs v) { return functions::embedding_bag(t, ids, offsets, 3.0, v[0]); },
                     {random_values({6, 3}, 1)}) < kGradientTolerance);
  // One table is used by two bags and in another place.
  CHECK(gradient_error(
            [=](Tape& t, Inputs v) {
              const auto bag = [&](double scale) {
                return functions::embedding_bag(t, ids, offsets, scale, v[0]);
              };
              return functions::add(t, functions::add(t, bag(3.0), v[0]), bag(0.5));
            },
            {random_values({5, 3}, 1)}) < kGradientTolerance);
}

TEST_CASE("dropout: gradients pass where values did, and to the residual", "[gradient]") {
  const RandomStream stream{.seed = 1, .step = 2, .tensor = 3};
  for (const double rate : {0.0, 0.4}) {
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) { return functions::dropout(t, v[0], Tensor(), rate, stream, 0); },
              {random_values({3, 7}, 1)}) < kGradientTolerance);
    CHECK(
        gradient_error([=](Tape& t, Inputs v) { return functions::dropout(t, v[0], v[1], rate, stream, 11); },
                       {random_values({3, 7}, 1), random_values({3, 7}, 2)}) < kGradientTolerance);
    CHECK(
        gradient_error([=](Tape& t, Inputs v) { return functions::dropout(t, v[0], v[0], rate, stream, 3); },
                       {random_values({3, 7}, 1)}) < kGradientTolerance);
    const Tensor constant = kept(random_values({3, 7}, 2));
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) { return functions::dropout(t, constant, v[0], rate, stream, 3); },
              {random_values({3, 7}, 1)}) < kGradientTolerance);
  }
}

TEST_CASE("cross entropy: gradient of the losses, smoothed or not", "[gradient]") {
  const Tensor labels = kept_ids({3, 0, 4, 4});
  for (const double smoothing : {0.0, 0.1, 1.0})
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) { return functions::cross_entropy(t, v[0], labels, smoothing).losses; },
              {random_values({4, 5}, 1)}) < kGradientTolerance);
  const Tensor none = kept_ids({});
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::cross_entropy(t, v[0], none, 0.1).losses; },
                       {random_values({0, 5}, 1)}) < kGradientTolerance);
}

TEST_CASE("squared hinge: gradient of the losses, within the margin and beyond it", "[gradient]") {
  const Tensor labels = kept_ids({3, 0, 4, 4});
  const auto losses = [=](Tape& t, Inputs v) { return functions::squared_hinge(t, v[0], labels); };
  CHECK(gradient_error(losses, {random_values({4, 5}, 1)}) < kGradientTolerance);
  CHECK(gradient_error(losses, {random_values({4, 5}, 2, DType::f64, 4.0)}) < kGradientTolerance);
}

TEST_CASE("squared error: gradient of the losses, whose prediction may have another use", "[gradient]") {
  const Tensor target = kept(random_values({4, 5}, 2));
  const auto losses = [=](Tape& t, const Tensor& x) { return functions::squared_error(t, x, target); };
  CHECK(gradient_error([=](Tape& t, Inputs v) { return losses(t, v[0]); }, {random_values({4, 5}, 1)}) <
        kGradientTolerance);
  CHECK(gradient_error(
            [=](Tape& t, Inputs v) {
              return functions::add(t, losses(t, v[0]), losses(t, functions::scale(t, v[0], 2)));
            },
            {random_values({4, 5}, 1)}) < kGradientTolerance);
}

TEST_CASE("segment_mean and segment_max: gradients with empty segments", "[gradient]") {
  for (const auto& bounds : {std::vector<std::int32_t>{0, 0, 3, 3, 4, 7, 7}, {0, 1}, {0, 0}}) {
    const Tensor offsets = kept_ids(bounds);
    const Tensor x = random_values({bounds.back(), 4}, 1);
    for (double& value : x.span<double>())
      value = std::round(value * 1000) / 100;  // no two values are nearly equal
    CAPTURE(bounds.size());
    CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::segment_mean(t, v[0], offsets); }, {x}) <
          kGradientTolerance);
    CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::segment_max(t, v[0], offsets); }, {x}) <
          kGradientTolerance);
    // both poolings of one tensor
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) {
                return functions::concatenate(t, functions::segment_mean(t, v[0], offsets),
                                              functions::segment_max(t, v[0], offsets));
              },
              {x}) < kGradientTolerance);
  }
}

}  // namespace
}  // namespace conclave

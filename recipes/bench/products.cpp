// Compares the grouped product with one large product, and a layer of LSTM experts and a whole
// mixture-of-experts layer with the FMA peak.
#include <fmt/format.h>
#include <omp.h>

#include <vector>

#include "autograd/functions/functions.h"
#include "autograd/nn/parameter_set.h"
#include "parallel/moe/moe_layer.h"
#include "recipes/bench/bench.h"

namespace conclave::bench {
namespace {

void grouped_product(Index groups, Index rows_each, Index in, Index out, std::int64_t repetitions) {
  const Index rows = groups * rows_each;
  Arena arena("grouped product");
  const Tensor x = arena.empty({rows, in}), weight = arena.empty({groups, out, in}),
               y = arena.empty({rows, out});
  fill(x, 0);
  fill(weight, 1);
  std::vector<Index> offsets;
  for (Index g = 0; g <= groups; ++g) offsets.push_back(g * rows_each);
  const Tensor one_weight = weight.rows(0, 1);
  const Index one_group[] = {0, rows};
  const double flops = 2.0 * static_cast<double>(rows * in * out);
  // Repeat the work so that a repetition is long compared with the clock's resolution and with disturbances.
  const int times = static_cast<int>(std::max(1.0, 2e10 / flops));
  const auto product = [&](kernels::RowOffsets groups_of_rows, const Tensor& weights) {
    for (int i = 0; i < times; ++i)
      kernels::grouped_linear(x, groups_of_rows, weights, Tensor(), Activation::none, y, Tensor());
  };
  const Comparison time =
      compare([&] { product(offsets, weight); }, [&] { product(one_group, one_weight); }, repetitions);
  print_figure(fmt::format("{} groups of {} rows, {} -> {}, forward", groups, rows_each, in, out),
               fmt::format("{:.0f} GFLOP/s, {:.0f}% of one product of {} rows",
                           flops * times / time.subject / 1e9, 100 * time.ratio, rows),
               0.85);
}

}  // namespace

void grouped(std::int64_t repetitions) {
  for (const Index groups : {8, 32}) {
    grouped_product(groups, 64, 1024, 1024, repetitions);
    grouped_product(groups, 64, 256, 1024, repetitions);
  }
}

void lstm(std::int64_t repetitions) {
  constexpr Index kExperts = 4, kSequences = 64, kLength = 16, kInput = 512, kHidden = 256;
  constexpr Index kTokens = kExperts * kSequences * kLength;
  struct Experts : Module {
    Parameter& weight =
        add_parameter("weight", {kExperts, 4 * kHidden, kInput}, Initializer::fan_in(kHidden));
    Parameter& bias = add_parameter("bias", {kExperts, 4 * kHidden}, Initializer::fan_in(kHidden), false);
    Parameter& recurrent =
        add_parameter("recurrent", {kExperts, 4 * kHidden, kHidden}, Initializer::fan_in(kHidden));
  } experts;
  const ParameterSet parameters(experts, DType::f32, 1);
  Arena input("input"), activations("activations");
  Tensor x = input.empty({kTokens, kInput});
  const Tensor seed = input.empty({kTokens, kHidden});
  fill(x, 0);
  fill(seed, 1);
  std::vector<Index> groups, sequences;
  for (Index row = 0; row <= kTokens; row += kSequences * kLength) groups.push_back(row);
  for (Index row = 0; row <= kTokens; row += kLength) sequences.push_back(row);
  const auto step = [&] {
    activations.reset();
    Tape tape(activations);
    tape.watch(x);
    const Tensor projected =
        functions::grouped_linear(tape, x, groups, experts.weight.value, experts.bias.value);
    tape.backward(functions::lstm(tape, projected, groups, sequences, experts.recurrent.value), seed);
  };
  step();
  activations.seal();
  const Peak peak(omp_get_max_threads());
  const Comparison time = compare(
      step, [&] { peak.run(); }, repetitions);
  // Two products forward, and for each of them two of the same size backward.
  const double flops = 3 * 2.0 * static_cast<double>(kTokens * 4 * kHidden * (kInput + kHidden));
  print_figure(fmt::format("LSTM {} -> {}, {} experts, {} sequences of {} tokens each, both ways", kInput,
                           kHidden, kExperts, kSequences, kLength),
               fmt::format("{:.0f} tokens/s, {:.0f} GFLOP/s, {:.0f}% of the FMA peak",
                           static_cast<double>(kTokens) / time.subject, flops / time.subject / 1e9,
                           100 * time.ratio * flops / peak.flops()));
}

void moe(const ProcessGrid& grid, std::int64_t repetitions) {
  constexpr Index kTokens = 8192, kHidden = 1024, kFfn = 4096, kTopK = 2;
  MoeOptions options;
  options.hidden = kHidden;
  options.ffn = kFfn;
  options.top_k = kTopK;
  MoeLayer layer(options, grid);
  ParameterSet parameters(layer, DType::f32, 1);
  Arena input("input"), activations("activations");
  Tensor x = input.empty({kTokens, kHidden});
  const Tensor seed = input.zeros({kTokens, kHidden});
  fill(x, 0);
  fill(seed, 1);
  const Tensor offsets = Tensor::of<std::int32_t>({2}, {0, kTokens});
  ForwardContext context;
  context.global_tokens = kTokens;
  const auto step = [&] {
    activations.reset();
    Tape tape(activations);
    tape.watch(x);
    const Tensor y = layer(tape, context, x, offsets);
    tape.backward(y, seed);
  };
  step();
  activations.seal();
  const Peak peak(omp_get_max_threads());
  const Comparison time = compare(
      step, [&] { peak.run(); }, repetitions);
  // Two products forward, and for each of them two of the same size backward.
  const double flops = 3 * 2 * 2.0 * static_cast<double>(kTokens * kTopK * kHidden * kFfn);
  print_figure(fmt::format("MoE layer {} -> {}, 8 experts, top {}, {} tokens, both ways", kHidden, kFfn,
                           kTopK, kTokens),
               fmt::format("{:.0f} GFLOP/s, {:.0f}% of the FMA peak", flops / time.subject / 1e9,
                           100 * time.ratio * flops / peak.flops()),
               0.70);
}

}  // namespace conclave::bench

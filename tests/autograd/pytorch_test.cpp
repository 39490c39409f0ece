// Our layers against PyTorch's.
#include <catch2/catch.hpp>

#include "autograd/nn/layers.h"
#include "autograd/optim/adamw.h"
#include "core/kernels/reduction.h"
#include "tests/autograd/pytorch_run.h"

namespace conclave {
namespace {

TEMPLATE_TEST_CASE("LayerNorm agrees with PyTorch, also with GELU behind it", "[pytorch]", float, double) {
  for (const bool gelu : {false, true}) {
    const Fixture fixture(gelu ? "layer_norm_gelu" : "layer_norm");
    LayerNorm layer(12, {.gelu = gelu});
    Run<TestType> run(fixture, layer);
    run.check(layer(run.tape, run.x));
  }
}

TEMPLATE_TEST_CASE("activations agree with PyTorch's", "[pytorch]", float, double) {
  const Fixture fixture("activations");
  const std::pair<const char*, Activation> kinds[] = {
      {"gelu", Activation::gelu}, {"silu", Activation::silu}, {"relu", Activation::relu}};
  for (const auto& [name, kind] : kinds) {
    CAPTURE(name);
    Arena arena("test");
    Tape tape(arena);
    Tensor x = kept(fixture("x", dtype_of<TestType>));
    tape.watch(x);
    const Tensor y = functions::activation(tape, x, kind);
    CHECK(distance(y, fixture(name)) < kAgreement<TestType>);
    tape.backward(y, fixture("dy", dtype_of<TestType>));
    CHECK(distance(tape.gradient(x), fixture(std::string(name) + "_dx")) < kAgreement<TestType>);
  }
}

TEMPLATE_TEST_CASE("cross entropy agrees with PyTorch, smoothed or not", "[pytorch]", float, double) {
  const Fixture fixture("cross_entropy");
  for (const bool smoothed : {false, true}) {
    const std::string name = smoothed ? "smoothed" : "plain";
    Arena arena("test");
    Tape tape(arena);
    Tensor logits = kept(fixture("logits", dtype_of<TestType>));
    tape.watch(logits);
    const auto result =
        functions::cross_entropy(tape, logits, kept(fixture("labels", DType::i32)), smoothed ? 0.1 : 0.0);
    CHECK(distance(result.losses, fixture(name + "_losses")) < kAgreement<TestType>);
    CHECK(distance(result.correct, fixture("correct")) == 0);
    tape.backward(result.losses, fixture("dy", dtype_of<TestType>));
    CHECK(distance(tape.gradient(logits), fixture(name + "_dlogits")) < kAgreement<TestType>);
  }
}

TEMPLATE_TEST_CASE("the squared error agrees with PyTorch's", "[pytorch]", float, double) {
  const Fixture fixture("squared_error");
  struct : Module {
  } none;
  Run<TestType> run(fixture, none);
  run.check(functions::squared_error(run.tape, run.x, kept(fixture("target", dtype_of<TestType>))));
}

TEMPLATE_TEST_CASE("packed attention agrees with PyTorch's padded one", "[pytorch]", float, double) {
  for (const bool causal : {false, true}) {
    const Fixture fixture(causal ? "attention_causal" : "attention");
    MultiHeadAttention layer(12, 3, causal ? kernels::AttentionMask::causal : kernels::AttentionMask::none);
    Run<TestType> run(fixture, layer);
    run.check(layer(run.tape, run.x, kept(fixture("offsets", DType::i32))));
  }
}

TEMPLATE_TEST_CASE("attention with separate keys agrees with PyTorch, causal or not", "[pytorch]", float,
                   double) {
  const Fixture fixture("attention_other_rows");
  for (const bool causal : {false, true}) {
    const std::string name = causal ? "causal" : "plain";
    Arena arena("test");
    Tape tape(arena);
    const auto watched = [&](const char* input) {
      Tensor tensor = kept(fixture(input, dtype_of<TestType>));
      tape.watch(tensor);
      return tensor;
    };
    const Tensor q = watched("q"), k = watched("k"), v = watched("v");
    const Tensor y = functions::attention(
        tape, q, k, v, kept(fixture("offsets", DType::i32)), kept(fixture("key_offsets", DType::i32)),
        {3, causal ? kernels::AttentionMask::causal : kernels::AttentionMask::none});
    CHECK(distance(y, fixture(name + "_y")) < kAgreement<TestType>);
    tape.backward(y, fixture("dy", dtype_of<TestType>));
    CHECK(distance(tape.gradient(q), fixture(name + "_dq")) < kAgreement<TestType>);
    CHECK(distance(tape.gradient(k), fixture(name + "_dk")) < kAgreement<TestType>);
    CHECK(distance(tape.gradient(v), fixture(name + "_dv")) < kAgreement<TestType>);
  }
}

TEMPLATE_TEST_CASE("cross-attention with one query matrix agrees with PyTorch's", "[pytorch]", float,
                   double) {
  const Fixture fixture("cross_attention");
  CrossAttention layer(12, 3);
  Run<TestType> run(fixture, layer);
  const Tensor first_offsets = kept(fixture("first_offsets", DType::i32)),
               second_offsets = kept(fixture("second_offsets", DType::i32));
  const auto [first, second] =
      functions::split_rows(run.tape, run.x, first_offsets.span<std::int32_t>().back());
  const auto [to_second, to_first] = layer(run.tape, first, first_offsets, second, second_offsets);
  run.check(functions::join_rows(run.tape, to_second, to_first));
}

TEMPLATE_TEST_CASE("an LSTM over packed sequences agrees with PyTorch's, one for each group of them",
                   "[pytorch]", float, double) {
  const Fixture fixture("lstm");
  struct Experts : Module {
    Parameter& input = add_parameter("weight_ih", {2, 20, 7}, Initializer::constant(0));
    Parameter& bias = add_parameter("bias", {2, 20}, Initializer::constant(0), false);
    Parameter& recurrent = add_parameter("weight_hh", {2, 20, 5}, Initializer::constant(0));
  } experts;
  Run<TestType> run(fixture, experts);
  const Tensor groups = fixture("groups", DType::i64), sequences = fixture("sequences", DType::i64);
  const Tensor projected = functions::grouped_linear(run.tape, run.x, groups.span<Index>(),
                                                     experts.input.value, experts.bias.value);
  run.check(functions::lstm(run.tape, projected, groups.span<Index>(), sequences.span<Index>(),
                            experts.recurrent.value));
}

TEMPLATE_TEST_CASE("a Transformer block agrees with PyTorch's pre-norm encoder layer", "[pytorch]", float,
                   double) {
  const Fixture fixture("transformer_block");
  TransformerBlock layer(8, 2, 20, 0.0);
  Run<TestType> run(fixture, layer);
  ForwardContext context;
  run.check(layer(run.tape, context, run.x, kept(fixture("offsets", DType::i32))));
}

// Five steps with changing learning rates, compared with PyTorch's parameters after each step.
template <class T>
void check_adamw(const std::string& name, double clip_norm, double agreement) {
  const Fixture fixture("adamw");
  struct Model : Module {
    Parameter& weight = add_parameter("weight", {3, 4}, Initializer::constant(0));
    Parameter& bias = add_parameter("bias", {5}, Initializer::constant(0), false);
  } model;
  ParameterSet parameters(model, dtype_of<T>, 0);
  AdamW optimizer(parameters, {.beta1 = 0.9, .beta2 = 0.98, .weight_decay = 0.1});
  model.weight.value.copy_from(fixture("weight", dtype_of<T>));
  model.bias.value.copy_from(fixture("bias", dtype_of<T>));
  for (Index step = 0; step < 5; ++step) {
    model.weight.slot.gradient.copy_from(fixture("weight_gradients", dtype_of<T>).rows(step, step + 1));
    model.bias.slot.gradient.copy_from(fixture("bias_gradients", dtype_of<T>).rows(step, step + 1));
    double squares = 0;
    for (const auto& segment : parameters.segments()) squares += kernels::sum_of_squares(segment.gradients);
    const double norm = std::sqrt(squares);
    CHECK(norm == Approx(fixture("norms").data<double>()[step]).epsilon(1e-6));
    optimizer.update(step + 1, fixture("rates").data<double>()[step], clip_scale(norm, clip_norm));
    CHECK(distance(model.weight.value, fixture(name + "_weight").rows(step, step + 1).reshape({3, 4})) <
          agreement);
    CHECK(distance(model.bias.value, fixture(name + "_bias").rows(step, step + 1).reshape({5})) < agreement);
  }
}

TEMPLATE_TEST_CASE("AdamW agrees with PyTorch's over several steps", "[pytorch]", float, double) {
  check_adamw<TestType>("plain", 0, kAgreement<TestType>);
}

TEMPLATE_TEST_CASE("clipping by the global norm agrees with PyTorch's", "[pytorch]", float, double) {
  check_adamw<TestType>("clipped", 1.5, 1e-5);  // PyTorch divides by norm + 1e-6
}

}  // namespace
}  // namespace conclave

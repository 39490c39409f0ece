#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>
#include <string>

#include "autograd/nn/layers.h"
#include "autograd/nn/parameter_set.h"
#include "tests/autograd/gradient.h"

namespace conclave {
namespace {

using Catch::Matchers::StartsWith;

// Norm, attention with a residual connection, and a feed-forward layer with a residual connection.
struct SmallModel : Module {
  SmallModel() {
    add_module("norm", norm);
    add_module("attention", attention);
    add_module("feed_forward", feed_forward);
  }
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& offsets) const {
    const Tensor middle = functions::add(tape, attention(tape, norm(tape, x), offsets), x);
    return functions::add(tape, feed_forward(tape, middle), middle);
  }
  LayerNorm norm{4};
  MultiHeadAttention attention{4, 2};
  FeedForward feed_forward{4, 6};
};

struct TapeScene {
  SmallModel model;
  ParameterSet parameters{model, DType::f64, 5};
  Arena arena{"test"};
  Tensor offsets = kept_ids({0, 2, 5}), seed = random_values({5, 4}, 9);

  std::vector<Tensor> gradients() const {
    std::vector<Tensor> copies;
    for (const auto& segment : parameters.segments()) copies.push_back(segment.gradients.clone());
    return copies;
  }
};

TEST_CASE("two backward passes of one recording give the same gradients", "[tape]") {
  TapeScene s;
  Tape tape(s.arena);
  Tensor x = kept(random_values({5, 4}, 1));
  tape.watch(x);
  const Tensor y = s.model(tape, x, s.offsets);

  tape.backward(y, s.seed);
  const std::vector<Tensor> once = s.gradients();
  const Tensor dx = tape.gradient(x).clone();
  s.parameters.zero_gradients();
  tape.backward(y, s.seed);
  CHECK(same_bits(tape.gradient(x), dx));
  for (std::size_t i = 0; i < once.size(); ++i) CHECK(same_bits(s.gradients()[i], once[i]));

  tape.backward(y,
                s.seed);  // without zeroing, gradients of parameters accumulate, those of activations do not
  CHECK(same_bits(tape.gradient(x), dx));
  for (std::size_t i = 0; i < once.size(); ++i)
    CHECK(distance(s.gradients()[i], plus(once[i], once[i])) < 1e-12);
}

TEST_CASE("a second backward pass may have another seed", "[tape]") {
  TapeScene s;
  Tape tape(s.arena);
  const Tensor y = s.model(tape, kept(random_values({5, 4}, 1)), s.offsets);
  const Tensor twice = plus(s.seed, s.seed);
  tape.backward(y, s.seed);
  const std::vector<Tensor> once = s.gradients();
  s.parameters.zero_gradients();
  tape.backward(y, twice);
  for (std::size_t i = 0; i < once.size(); ++i)
    CHECK(distance(s.gradients()[i], plus(once[i], once[i])) < 1e-12);
}

TEST_CASE("one backward pass from several losses gives the sum of their gradients", "[tape]") {
  TapeScene s;
  Tape tape(s.arena);
  const Tensor y = s.model(tape, kept(random_values({5, 4}, 1)), s.offsets);
  const Tensor z = functions::activation(tape, y, Activation::gelu);  // one loss is computed from the other
  const Tensor other = random_values({5, 4}, 8);
  const auto gradients_of = [&](std::initializer_list<Tape::Loss> losses) {
    s.parameters.zero_gradients();
    tape.backward(losses);
    return s.gradients();
  };
  const auto both = gradients_of({{y, s.seed}, {z, other}}), first = gradients_of({{y, s.seed}});
  const auto second = gradients_of({{z, other}}), twice = gradients_of({{y, s.seed}, {y, s.seed}});
  for (std::size_t i = 0; i < both.size(); ++i) {
    CHECK(distance(both[i], plus(first[i], second[i])) < 1e-12);
    CHECK(distance(twice[i], plus(first[i], first[i])) < 1e-12);
  }
}

TEST_CASE("parameters add up the gradients of micro-batches", "[tape]") {
  TapeScene s;
  const auto gradients_of = [&](std::initializer_list<std::uint32_t> batches) {
    s.parameters.zero_gradients();
    for (const std::uint32_t batch : batches) {
      ArenaScope scope(s.arena);
      Tape tape(s.arena);
      tape.backward(s.model(tape, kept(random_values({5, 4}, batch)), s.offsets), s.seed);
    }
    return s.gradients();
  };
  const auto both = gradients_of({1, 2}), first = gradients_of({1}), second = gradients_of({2});
  for (std::size_t i = 0; i < both.size(); ++i) CHECK(distance(both[i], plus(first[i], second[i])) < 1e-12);
}

TEST_CASE("gradients of ranges of rows are part of the gradient of the whole", "[tape][gradient]") {
  // One range is used twice, one is passed on unchanged, one is empty, and one is unused.
  Tensor whole;
  std::array<Tensor, 4> parts;
  const auto in_ranges = [&](Tape& tape, Inputs inputs) {
    whole = functions::activation(tape, inputs[0], Activation::gelu);
    const std::array<Index, 5> bounds{0, 2, 4, 4, 5};
    for (std::size_t i = 0; i < parts.size(); ++i) {
      parts[i] = tape.range(whole, bounds[i], bounds[i + 1]);
      tape.record("range", {&whole}, {&parts[i]}, [](Tape&) {});
    }
    const Tensor sum = functions::add(tape, parts[1], functions::multiply(tape, parts[0], parts[0]));
    return functions::join_rows(tape, sum, functions::activation(tape, parts[2], Activation::relu));
  };
  CHECK(gradient_error(in_ranges, {random_values({5, 3}, 1)}) < kGradientTolerance);

  Arena arena("test");
  Tape tape(arena);
  Tensor x = kept(random_values({5, 3}, 1));
  tape.watch(x);
  const Tensor y = in_ranges(tape, std::span(&x, 1));
  CHECK(parts[1].raw() == whole.rows(2, 4).raw());
  const Tensor seed = random_values(y.shape(), 2);
  tape.backward(y, seed);
  const Tensor dx = tape.gradient(x).clone();
  tape.backward(y, seed);
  CHECK(same_bits(tape.gradient(x), dx));

  Tape evaluating(arena, false);
  CHECK(evaluating.range(x, 1, 3).slot == nullptr);
  CHECK(evaluating.tap(x).slot == nullptr);
}

TEST_CASE("a tape that does not record computes the same and remembers nothing", "[tape]") {
  TapeScene s;
  const Tensor x = kept(random_values({5, 4}, 1));
  Tape recording(s.arena);
  const Tensor y = s.model(recording, x, s.offsets);
  const std::size_t with_recording = s.arena.used();
  Tape evaluating(s.arena, false);
  const Tensor z = s.model(evaluating, x, s.offsets);
  CHECK(same_bits(y, z));
  CHECK(z.slot == nullptr);
  CHECK(s.arena.used() - with_recording < with_recording);
  CHECK_THROWS_WITH(evaluating.backward(z, s.seed),
                    "backward: the loss does not depend on anything that wants a gradient");
}

TEST_CASE("functions of inputs that need no gradient are not recorded", "[tape]") {
  Arena arena("test");
  Tape tape(arena);
  const Tensor constant = kept(random_values({3}, 1));
  CHECK(functions::add(tape, constant, constant).slot == nullptr);
}

TEST_CASE("a seed of another shape is an Error", "[tape]") {
  Arena arena("test");
  Tape tape(arena);
  Tensor x = kept(random_values({3}, 1));
  tape.watch(x);
  const Tensor y = functions::add(tape, x, x);
  CHECK_THROWS_WITH(tape.backward(y, Tensor::zeros({4}, DType::f64)), "backward: seed f64 [4], loss f64 [3]");
  CHECK_THROWS_WITH(tape.backward(y, Tensor::zeros({3})), "backward: seed f32 [3], loss f64 [3]");
}

TEST_CASE("a node with more inputs or outputs than it can hold is an Error", "[tape]") {
  Arena arena("test");
  Tape tape(arena);
  Tensor x = kept(random_values({3}, 1));
  tape.watch(x);
  const std::vector<const Tensor*> inputs(Tape::kMostInputs + 1, &x);
  const Tensor one = tape.output({3}, DType::f64, {&x}), two = one, three = one;
  CHECK_THROWS_WITH(tape.record("mine", {&x}, {&one, &two, &three}, [](Tape&) {}),
                    "mine: it records 3 outputs, but a node has at most 2; record several nodes");
  CHECK_THROWS_WITH(tape.record("mine", std::span(inputs), {&one}, [](Tape&) {}),
                    "mine: it records 17 inputs, but a node has at most 16; record several nodes");
  CHECK_NOTHROW(tape.record("mine", std::span(inputs).first(Tape::kMostInputs), {&one, &two}, [](Tape&) {}));
}

TEST_CASE("the gradient of a tensor that has none is an Error with the function's name", "[tape]") {
  Arena arena("test");
  Tape tape(arena);
  Tensor x = kept(random_values({3}, 1));
  const Tensor constant = kept(random_values({3}, 2));
  CHECK_THROWS_WITH(tape.into(constant), StartsWith("before backward(): Tape::into() was asked"));
  tape.watch(x);
  for (const bool writes : {false, true}) {
    const Tensor y = tape.output({3}, DType::f64, {&x});
    tape.record("mine", {&x, &constant}, {&y}, [writes, constant](Tape& walked) {
      writes ? walked.into(constant).gradient : walked.gradient(constant);
    });
    CHECK_THROWS_WITH(tape.backward(y, random_values({3}, 3)),
                      StartsWith(writes ? "mine: Tape::into() was asked to write the gradient of an input"
                                        : "mine: Tape::gradient() was asked for the gradient of a tensor"));
  }
}

TEST_CASE("branches that do not reach the loss cost nothing and give zero", "[tape]") {
  Arena arena("test");
  Tape tape(arena);
  Tensor x = kept(random_values({3}, 1)), unused = kept(random_values({3}, 2));
  tape.watch(x);
  tape.watch(unused);
  functions::multiply(tape, x, unused);  // the result is not used
  const Tensor y = functions::add(tape, x, x);
  functions::multiply(tape, y, unused);
  tape.backward(y, random_values({3}, 3));
  CHECK(distance(tape.gradient(x), plus(random_values({3}, 3), random_values({3}, 3))) == 0);
  CHECK(distance(tape.gradient(unused), Tensor::zeros({3})) == 0);
}

TEST_CASE("the first function that is not finite is named, with its scope", "[tape]") {
  Arena arena("test");
  Tape tape(arena);
  Tensor x = kept(Tensor::of<double>({2, 2}, {1e200, 1, 1, 1}));
  tape.watch(x);
  tape.enter("layers.0.attention");
  const Tensor fine = functions::add(tape, x, x);
  CHECK(tape.first_non_finite() == nullptr);
  tape.enter("layers.1.moe");
  const Tensor overflow = functions::multiply(tape, fine, x);
  tape.enter("head");
  functions::softmax(tape, overflow);
  REQUIRE(tape.first_non_finite() != nullptr);
  CHECK(std::string(tape.first_non_finite()) == "multiply");
  CHECK(std::string(tape.non_finite_scope()) == "layers.1.moe");
}

struct Announcements {
  int count = 0;
  std::vector<double> gradient;
  void watch(Parameter& parameter) {
    parameter.slot.context = this;
    parameter.slot.on_ready = [](void* context, GradientSlot& slot) {
      auto& self = *static_cast<Announcements*>(context);
      ++self.count;
      const auto values = slot.gradient.span<double>();
      self.gradient.assign(values.begin(), values.end());
    };
  }
};

TEST_CASE("a parameter reports its gradient once, after its last use", "[tape]") {
  struct Tied : Module {
    Tied() { add_module("linear", linear); }
    Linear linear{3, 3, false};
  } model;
  ParameterSet parameters(model, DType::f64, 1);
  Parameter& weight = model.linear.weight();
  Announcements announced;
  announced.watch(weight);
  Arena arena("test");
  for (int batch = 1; batch <= 2; ++batch) {
    Tape tape(arena);
    const Tensor x = kept(random_values({2, 3}, 1));
    const Tensor y = model.linear(tape, model.linear(tape, x), Activation::gelu);
    model.linear(tape, x);  // a third use, which does not reach the loss
    tape.backward(y, random_values({2, 3}, 2));
    CHECK(announced.count == batch);
    CHECK(std::ranges::equal(announced.gradient, weight.slot.gradient.span<double>()));
  }
}

TEST_CASE("dropout streams keep their numbers where dropout is off", "[tape]") {
  Arena arena("test");
  Tape tape(arena);
  const Tensor x = random_values({2, 3}, 1);
  ForwardContext training{.stream = {.seed = 1, .step = 2, .tensor = 0}}, evaluating = training;
  evaluating.training = false;
  apply_dropout(tape, training, x, Tensor(), 0.5, 0);
  CHECK(same_bits(apply_dropout(tape, evaluating, x, Tensor(), 0.5, 0), x));
  CHECK(distance(apply_dropout(tape, evaluating, x, x, 0.5, 0), plus(x, x)) == 0);
  CHECK(training.stream.tensor == 1);
  CHECK(evaluating.stream.tensor == 2);
}

TEST_CASE("each batch of a step has random streams of its own, and no more than those", "[tape]") {
  ForwardContext first{.stream = {.seed = 1, .step = 2, .tensor = first_stream(0)}}, second = first;
  second.stream.tensor = first_stream(1);
  for (std::uint32_t i = 1; i < kStreamsPerBatch; ++i) first.next_stream();
  CHECK(first.stream.tensor < second.next_stream().tensor);
  CHECK_THROWS_WITH(first.next_stream(), StartsWith("a forward pass asks for more than 16383 streams"));
  CHECK(first_stream(kMostBatchesPerStep - 1) == (1u << 31) - kStreamsPerBatch);
  CHECK_THROWS_WITH(first_stream(kMostBatchesPerStep), StartsWith("batch 131072 of a step has no random"));
}

TEST_CASE("without recording, a part gives back all memory but its result", "[tape]") {
  for (const bool recording : {false, true}) {
    Arena arena("test");
    Tape tape(arena, recording);
    Tensor x = kept(random_values({5, 4}, 1));
    const auto part = [&](const Tensor& from) {
      return functions::add(tape, functions::add(tape, from, from), from);
    };
    const Tensor before = functions::add(tape, x, x), expected = part(before).clone();
    const Arena::Bytes mark = arena.mark();
    const Tensor all = part(before);
    const std::size_t taken = arena.used() - mark.tensors;
    const Tensor result = tape.keep_only(all, mark);
    CHECK(same_bits(result, expected));
    CHECK(arena.used() - mark.tensors == (recording ? taken : taken / 2));
    if (recording) CHECK(result.raw() == all.raw());
  }
}

}  // namespace
}  // namespace conclave

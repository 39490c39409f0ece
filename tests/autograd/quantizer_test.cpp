// Quantized layers, in training.
#include "autograd/nn/quantizer.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "autograd/nn/layers.h"
#include "autograd/nn/parameter_set.h"
#include "autograd/nn/vision_layers.h"
#include "tests/autograd/gradient.h"

namespace conclave {
namespace {

TEST_CASE("a quantized linear layer rounds its numbers once rounding is turned on", "[quantizer]") {
  for (const bool per_token : {true, false})
    for (const bool learned : {false, true}) {
      CAPTURE(per_token, learned);
      Quantization shared{.options = {.per_token = per_token, .learned = learned}};
      Linear layer(33, 9), plain(33, 9);
      layer.quantize(shared);
      CHECK(shared.observers.size() == (per_token ? 0 : 1));
      ParameterSet parameters(layer, DType::f32, 1), others(plain, DType::f32, 1);
      Arena arena("test");
      Tape tape(arena);
      Tensor x = kept(random_values({20, 33}, 1, DType::f32));
      tape.watch(x);
      const Tensor exact = plain(tape, x, Activation::gelu);
      CHECK(same_bits(layer(tape, x, Activation::gelu), exact));
      for (RangeObserver* observer : shared.observers) observer->learn();
      shared.rounds = true;
      const Tensor y = layer(tape, x, Activation::gelu);
      CHECK_FALSE(same_bits(y, exact));
      CHECK(distance(y, exact) < 0.05);
      tape.backward(y, kept(random_values({20, 9}, 2, DType::f32)));
      for (const Parameter* parameter : parameters.parameters()) {
        CAPTURE(parameter->name);
        double largest = 0;
        for (const float value : parameter->slot.gradient.span<float>())
          largest = std::max(largest, std::fabs(double(value)));
        CHECK(largest > 0);
      }
      Tape forgetful(arena, false);
      // Computing with integers gives the same result, up to rounding.
      const Tensor rounded = layer(forgetful, x, Activation::gelu);
      shared.integers = true;
      const Tensor integers = layer(forgetful, x, Activation::gelu);
      CHECK_FALSE(same_bits(integers, rounded));
      CHECK(distance(integers, rounded) < 1e-5);
      // A product with a part of the weight is that part of the whole product.
      const Tensor part = layer.part(forgetful, x, 2, 5);
      CHECK(distance(part, layer(forgetful, x).slice(1, 2, 5).clone()) < 1e-6);
      // Its weights are packed once, so that a token costs no rounding of weights: a change is not seen.
      std::ranges::fill(layer.weight().value.span<float>(), 1.0f);
      CHECK(same_bits(layer.part(forgetful, x, 2, 5), part));
    }
}

// Two products in sequence, for two experts.
struct Pair : Module {
  explicit Pair(Quantization& shared)
      : up(add_parameter("up", {2, 40, 17}, Initializer::fan_in(17))),
        down(add_parameter("down", {2, 9, 40}, Initializer::fan_in(40))),
        bias(add_parameter("bias", {2, 40}, Initializer::fan_in(1))),
        first(shared, up, kGroups),
        second(shared, down, kGroups) {
    for (Parameter* parameter : {&up, &down, &bias}) {
      parameter->sharded = true;
      parameter->global_rows = 2;
    }
    add_module("first", first);
    add_module("second", second);
  }
  static constexpr QuantizedGroups kGroups{.total = 2, .first = 0, .count = 2, .sharded = true};
  Parameter &up, &down, &bias;
  Quantizer first, second;
};

TEST_CASE("two products in sequence pass integers on and give the same result", "[quantizer]") {
  for (const bool per_token : {true, false}) {
    Quantization shared{.options = {.per_token = per_token}};
    Pair pair(shared);
    const ParameterSet parameters(pair, DType::f32, 1);
    Arena arena("test");
    Tape tape(arena), forgetful(arena, false);
    const std::vector<Index> offsets{0, 12, 20};
    Tensor x = kept(random_values({20, 17}, 1, DType::f32));
    tape.watch(x);
    const auto one_by_one = [&](Tape& on) {
      const Tensor inner =
          pair.first.product(on, x, offsets, pair.up.value, pair.bias.value, Activation::gelu);
      return pair.second.product(on, inner, offsets, pair.down.value, Tensor(), Activation::none);
    };
    const auto together = [&](Tape& on) {
      return pair.first.products(on, x, offsets, pair.up.value, pair.bias.value, Activation::gelu,
                                 pair.second, pair.down.value, Tensor());
    };
    const Tensor plain = one_by_one(tape);
    for (RangeObserver* observer : shared.observers) observer->learn();
    shared.rounds = true;
    CHECK(same_bits(together(tape), one_by_one(tape)));
    const Tensor rounded = one_by_one(forgetful);
    shared.integers = true;
    const Tensor integers = together(forgetful);
    CHECK(same_bits(integers, one_by_one(forgetful)));
    CHECK_FALSE(same_bits(integers, rounded));
    CHECK(distance(integers, rounded) < 1e-5);
    CHECK(distance(integers, plain) > 1e-4);
  }
}

TEST_CASE("a quantized convolution computes with rounded numbers", "[quantizer]") {
  for (const kernels::Window& window : {kernels::Window{1, 1, 0}, same_window(3), same_window(3, 2)}) {
    Quantization shared{.rounds = true};
    Convolution layer(5, 8, window), plain(5, 8, window);
    layer.quantize(shared);
    ParameterSet parameters(layer, DType::f32, 1), others(plain, DType::f32, 1);
    Arena arena("test");
    Tape tape(arena);
    Tensor x = kept(random_values({3, 6, 7, 5}, 1, DType::f32));
    tape.watch(x);
    const Tensor y = layer(tape, x), exact = plain(tape, x);
    CHECK_FALSE(same_bits(y, exact));
    CHECK(distance(y, exact) < 0.15);
    tape.backward(y, y);
    CHECK(tape.gradient(x).defined());
  }
}

TEST_CASE("convolutions with integers agree with rounded numbers, up to rounding", "[quantizer]") {
  for (const bool per_token : {true, false})
    for (const bool learned : {false, true})
      for (const Index stride : {1, 2}) {
        CAPTURE(per_token, learned, stride);
        Quantization shared{.options = {.per_token = per_token, .learned = learned}};
        Convolution convolution(9, 20, same_window(3, stride));
        Depthwise depthwise(9, same_window(5, stride));
        Arena arena("test");
        const Tensor x = random_values({3, 6, 7, 9}, 1, DType::f32);
        for (Module* module : std::initializer_list<Module*>{&convolution, &depthwise}) {
          dynamic_cast<Quantizable&>(*module).quantize(shared);
          const ParameterSet parameters(*module, DType::f32, 1);
          Tape tape(arena), forgetful(arena, false);
          const auto pass = [&](Tape& on, const Tensor& images) {
            return module == &convolution ? convolution(on, images) : depthwise(on, images);
          };
          Tensor watched = kept(x.clone());
          tape.watch(watched);
          shared.rounds = shared.integers = false;
          const Tensor plain = pass(forgetful, x);
          pass(tape, watched);
          for (RangeObserver* observer : shared.observers) observer->learn();
          shared.rounds = true;
          const Tensor recorded = pass(tape, watched), rounded = pass(forgetful, x);
          CHECK(distance(recorded, rounded) < 1e-6);
          CHECK_FALSE(same_bits(rounded, plain));
          CHECK(distance(rounded, plain) < 0.2);
          tape.backward(recorded, kept(random_values(recorded.shape(), 2, DType::f32)));
          for (const Parameter* parameter : parameters.parameters())
            CHECK(distance(parameter->slot.gradient, Tensor::zeros(parameter->shape)) > 0);
          shared.integers = true;
          const Tensor integers = pass(forgetful, x);
          CHECK(distance(integers, rounded) < 1e-5);
          CHECK_FALSE(same_bits(integers, rounded));
          // A rank may have no images of a batch.
          const Shape some = integers.shape();
          CHECK(pass(forgetful, x.rows(0, 0)).shape() == Shape{0, some[1], some[2], some[3]});
        }
      }
}

TEST_CASE("layers too wide for integer sums and weights of NaN are refused", "[quantizer]") {
  Quantization rounded, integers{.for_integers = true};
  Linear wide(40000, 2), other(40000, 2), narrow(3, 2);
  CHECK_NOTHROW(wide.quantize(rounded));
  CHECK_THROWS_WITH(other.quantize(integers), Catch::Contains("40000 inputs") &&
                                                  Catch::Contains("quantization.inference to \"rounded\""));
  narrow.quantize(integers);
  const ParameterSet parameters(narrow, DType::f32, 1);
  const Quantizer& quantizer = *integers.quantizers.front();
  quantizer.weight_parameter().value.span<float>()[1] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH(quantizer.weight_integers(Tensor::empty({2, 3}, DType::i8), Tensor::empty({2})),
                    Catch::Contains("weight: a weight is infinite or no number"));
  integers.rounds = integers.integers = true;
  Arena arena("test");
  Tape tape(arena, false);
  const Tensor x = Tensor::zeros({1, 3});
  for (int call = 0; call < 2; ++call) {
    CHECK_THROWS_WITH(narrow(tape, x), Catch::Contains("no number"));
    CHECK_THROWS_WITH(narrow.part(tape, x, 0, 1), Catch::Contains("no number"));
    CHECK_NOTHROW(narrow.part(tape, x, 1, 2));
  }
}

TEST_CASE("a weight is converted to integers and back, wherever its channels are", "[quantizer]") {
  for (const bool learned : {false, true}) {
    Quantization shared{.options = {.learned = learned}, .rounds = true};
    Depthwise depthwise(9, same_window(3));
    depthwise.quantize(shared);
    const ParameterSet parameters(depthwise, DType::f32, 1);
    const Quantizer& quantizer = *shared.quantizers.front();
    const Tensor integers = Tensor::empty({3, 3, 9}, DType::i8), scale = Tensor::empty({9});
    REQUIRE(quantizer.scale_shape({3, 3, 9}) == Shape{9});
    quantizer.weight_integers(integers, scale);
    Arena arena("test");
    Tape tape(arena, false);
    const Tensor x = random_values({2, 5, 5, 9}, 1, DType::f32), before = depthwise(tape, x);
    quantizer.take_integers(integers, scale);
    CHECK(distance(depthwise(tape, x), before) < 1e-5);
    const Tensor again = Tensor::empty({3, 3, 9}, DType::i8);
    quantizer.weight_integers(again, scale);
    CHECK(std::ranges::equal(again.span<std::int8_t>(), integers.span<std::int8_t>()));
    // With fewer bits, a channel's range gives its scale, and no weight is clipped.
    shared.options.weight_bits = 4;
    quantizer.take_integers(integers, scale);
    const Tensor of_fewer = Tensor::empty({9});
    quantizer.weight_integers(again, of_fewer);
    for (std::size_t c = 0; c < 9; ++c)
      CHECK(of_fewer.span<float>()[c] == Approx(scale.span<float>()[c] * 127 / 7));
  }
}

TEST_CASE("a quantized convolution with folded normalization equals both in sequence", "[quantizer]") {
  for (const kernels::Window& window : {kernels::Window{1, 1, 0}, same_window(3, 2)})
    for (const bool integers : {false, true}) {
      CAPTURE(window.size, integers);
      Quantization shared{.rounds = true, .integers = integers};
      Convolution layer(5, 20, window, false), same(5, 20, window, false);
      layer.quantize(shared);
      same.quantize(shared);
      BatchNorm norm(20);
      const ParameterSet parameters(layer, DType::f32, 1), others(same, DType::f32, 1),
          of_norm(norm, DType::f32, 1);
      for (const Parameter* parameter : of_norm.parameters())
        parameter->value.copy_from(random_values({20}, 3, DType::f32));
      for (const Buffer* buffer : of_norm.buffers())
        for (Index c = 0; c < 20; ++c) buffer->values.data<float>()[c] = 0.5F + static_cast<float>(c) / 20;
      Arena arena("test");
      Tape tape(arena, false);
      const Tensor x = random_values({3, 6, 7, 5}, 1, DType::f32);
      const Tensor folded = layer.normalized(tape, {}, x, norm, Activation::relu),
                   apart = norm(tape, {}, same(tape, x), Activation::relu);
      CHECK(distance(folded, apart) < 1e-5);
      CHECK(distance(folded, Tensor::zeros(folded.shape())) > 0.1);
    }
}

}  // namespace
}  // namespace conclave

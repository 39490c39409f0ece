#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "autograd/nn/vision_layers.h"
#include "tests/core/values.h"

namespace conclave {
namespace {

// The part of a layer's experts that one rank of an expert-parallel group holds.
struct Shard : Module {
  Shard(Index first, Index count, Index total) {
    for (Parameter* parameter : {&add_parameter("weight", {count, 3, 5}, Initializer::normal(0.5)),
                                 &add_parameter("bias", {count, 3}, Initializer::fan_in(4), false)}) {
      parameter->sharded = true;
      parameter->first_row = first;
      parameter->global_rows = total;
    }
  }
};

struct ExpertModel : Module {
  ExpertModel(Index first, Index count) : experts(first, count, 6) {
    add_module("embedding", embedding);
    add_module("experts", experts);
    add_module("head", head);
    add_parameter("scale", {1}, Initializer::constant(2), false);
  }
  Embedding embedding{7, 5};
  Shard experts;
  Linear head{5, 2};
};

std::map<std::string, Parameter*> by_name(const ParameterSet& set) {
  std::map<std::string, Parameter*> found;
  for (Parameter* parameter : set.parameters()) found[parameter->name] = parameter;
  return found;
}

TEST_CASE("parameters are named by their path through the modules", "[module]") {
  const TransformerBlock block(8, 2, 16, 0.1);
  std::vector<std::string> names;
  for (const auto& [name, parameter] : block.named_parameters()) names.push_back(name);
  CHECK(names == std::vector<std::string>{
                     "attention_norm.weight", "attention_norm.bias", "attention.qkv.weight",
                     "attention.qkv.bias", "attention.out.weight", "attention.out.bias",
                     "feed_forward_norm.weight", "feed_forward_norm.bias", "feed_forward.up.weight",
                     "feed_forward.up.bias", "feed_forward.down.weight", "feed_forward.down.bias"});
}

TEST_CASE("parameters are in segments: replicated, then sharded; without decay first", "[module]") {
  ExpertModel model(0, 6);
  const ParameterSet set(model, DType::f32, 1);
  const auto parameters = by_name(set);
  CHECK(set.elements() == 7 * 5 + 6 * 3 * 5 + 6 * 3 + 5 * 2 + 2 + 1);
  struct Expected {
    bool sharded, decay;
    std::vector<std::string> order;
  };
  const std::vector<Expected> expected{{false, false, {"head.bias", "scale"}},
                                       {false, true, {"head.weight", "embedding.weight"}},
                                       {true, false, {"experts.bias"}},
                                       {true, true, {"experts.weight"}}};
  REQUIRE(set.segments().size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto& segment = set.segments()[i];
    CHECK(segment.sharded == expected[i].sharded);
    CHECK(segment.decay == expected[i].decay);
    const char* end = static_cast<const char*>(segment.values.raw());
    for (const std::string& name : expected[i].order) {
      CAPTURE(name);
      const Parameter& parameter = *parameters.at(name);
      CHECK(set.segment_of(parameter) == i);
      const char* begin = static_cast<const char*>(parameter.value.raw());
      CHECK(begin >= end);      // in this order
      CHECK(begin - end < 64);  // with no more than padding between
      CHECK(reinterpret_cast<std::uintptr_t>(begin) % 64 == 0);
      CHECK(parameter.value.slot == &parameter.slot);
      CHECK(parameter.slot.parameter);
      CHECK(static_cast<const char*>(parameter.slot.gradient.raw()) -
                static_cast<const char*>(segment.gradients.raw()) ==
            begin - static_cast<const char*>(segment.values.raw()));
      end = begin + parameter.value.bytes();
    }
  }
}

TEST_CASE("padding between parameters is zero, in values and gradients", "[module]") {
  ExpertModel model(0, 6);
  const ParameterSet set(model, DType::f64, 1);
  for (const auto& segment : set.segments()) {
    Index padding = 0;
    std::set<Index> used;
    for (const Parameter* parameter : set.parameters()) {
      const auto offset = static_cast<const double*>(parameter->value.raw()) - segment.values.data<double>();
      if (offset < 0 || offset >= segment.values.numel()) continue;
      for (Index i = 0; i < parameter->value.numel(); ++i) used.insert(offset + i);
    }
    for (Index i = 0; i < segment.values.numel(); ++i) {
      REQUIRE(segment.gradients.data<double>()[i] == 0);
      if (used.contains(i)) continue;
      ++padding;
      REQUIRE(segment.values.data<double>()[i] == 0);
    }
    CHECK(padding == segment.values.numel() - Index(used.size()));
  }
}

TEST_CASE("a shard is initialized with its slice of what one rank would have", "[module]") {
  ExpertModel whole(0, 6);
  const ParameterSet all(whole, DType::f32, 42);
  for (const Index count : {1, 2, 3}) {
    for (Index first = 0; first < 6; first += count) {
      ExpertModel part(first, count);
      const ParameterSet some(part, DType::f32, 42);
      for (const auto& [name, parameter] : by_name(some)) {
        CAPTURE(name, first, count);
        const Tensor& value = by_name(all).at(name)->value;
        CHECK(same_bits(parameter->value, parameter->sharded ? value.rows(first, first + count) : value));
        CHECK(parameter->global_shape() == value.shape());
      }
    }
  }
}

TEST_CASE("the initial value of a parameter depends only on seed and name", "[module]") {
  struct Alone : Module {
    Alone() { add_module("head", head); }
    Linear head{5, 2};
  } alone;
  ExpertModel model(0, 6);
  const ParameterSet one(alone, DType::f32, 42), other(model, DType::f32, 42);
  CHECK(same_bits(alone.head.weight().value, model.head.weight().value));
  ExpertModel another(0, 6);
  const ParameterSet reseeded(another, DType::f32, 43);
  CHECK_FALSE(same_bits(another.head.weight().value, model.head.weight().value));
}

TEST_CASE("initializers have the distribution they are named after", "[module]") {
  struct Wide : Module {
    Parameter& normal = add_parameter("normal", {200, 200}, Initializer::normal(0.02));
    Parameter& uniform = add_parameter("uniform", {200, 200}, Initializer::fan_in(25));
    Parameter& constant = add_parameter("constant", {200}, Initializer::constant(1.5));
  } model;
  const ParameterSet set(model, DType::f64, 3);
  const auto moments = [](const Tensor& values) {
    double sum = 0, squares = 0;
    for (const double value : values.span<double>()) {
      sum += value;
      squares += value * value;
    }
    return std::pair{sum / double(values.numel()), squares / double(values.numel())};
  };
  CHECK(moments(model.normal.value).first == Approx(0).margin(5 * 0.02 / 200));
  CHECK(moments(model.normal.value).second == Approx(4e-4).epsilon(5 * 1.42 / 200));
  CHECK(moments(model.uniform.value).first == Approx(0).margin(5 * 0.12 / 200));
  CHECK(moments(model.uniform.value).second == Approx(0.2 * 0.2 / 3).epsilon(5 * 0.9 / 200));
  for (const double value : model.uniform.value.span<double>()) REQUIRE(std::fabs(value) <= 0.2);
  for (const double value : model.constant.value.span<double>()) REQUIRE(value == 1.5);
}

TEST_CASE("a part of a flat array has its parameter's place and shape", "[module]") {
  ExpertModel model(0, 6);
  ParameterSet set(model, DType::f32, 1);
  for (Parameter* parameter : set.parameters()) {
    const std::size_t segment = set.segment_of(*parameter);
    CHECK(same_bits(set.part(segment, set.segments()[segment].values, *parameter), parameter->value));
    parameter->slot.gradient.fill(1);
  }
  set.zero_gradients();
  for (const Parameter* parameter : set.parameters())
    CHECK(distance(parameter->slot.gradient, Tensor::zeros(parameter->shape)) == 0);
}

TEST_CASE("parameter arenas are sealed: nothing else fits", "[module]") {
  ExpertModel model(0, 6);
  ParameterSet set(model, DType::f32, 1);
  CHECK(set.values().sealed());
  CHECK(set.gradients().sealed());
  CHECK_THROWS_AS(set.values().allocate(64), Error);
}

// One layer for each kind of product.
struct EachProduct : Module {
  EachProduct() {
    add_module("linear", linear), add_module("convolution", convolution), add_module("experts", experts);
    add_module("embedding", embedding);
  }
  Linear linear{20, 40};
  Convolution convolution{5, 11, {3, 1, 1}};
  Shard experts{0, 4, 4};
  Embedding embedding{30, 20};

  Parameter& expert_weight() const { return *experts.named_parameters().front().second; }
  // The outputs of all layers for fixed rows and images, in a pass that does not record.
  std::vector<Tensor> outputs() const {
    static const Index offsets[] = {0, 3, 3, 4, 9};
    Arena arena("activations");
    Tape tape(arena, false);
    const Tensor x = random_values({9, 20}, 1, DType::f32), rows = random_values({9, 5}, 2, DType::f32),
                 images = random_values({2, 6, 6, 5}, 3, DType::f32);
    std::vector<Tensor> found;
    for (const Tensor& y :
         {linear(tape, x, Activation::gelu), convolution(tape, images),
          functions::grouped_linear(tape, rows, offsets, expert_weight().value, Tensor()),
          functions::linear(tape, x, embedding.table(), Tensor()), linear.part(tape, x, 3, 30)})
      found.push_back(y.clone());
    return found;
  }
  std::vector<const Parameter*> packed() const {
    std::vector<const Parameter*> found;
    for (const auto& [name, parameter] : named_parameters())
      if (parameter->panels.defined()) found.push_back(parameter);
    return found;
  }
};

bool all_same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::ranges::equal(a, b, [](const Tensor& x, const Tensor& y) { return same_bits(x, y); });
}

TEST_CASE("for inference, weights are packed once, and products have the same bits", "[module]") {
  EachProduct trained, used;
  const ParameterSet training(trained, DType::f32, 1);
  ParameterSet inference(used, DType::f32, 1, Device::cpu, ParameterUse::inference);
  CHECK(inference.gradients().capacity() == 0);
  for (const auto& segment : inference.segments()) CHECK_FALSE(segment.gradients.defined());
  const std::vector<Tensor> expected = trained.outputs();
  CHECK(all_same_bits(used.outputs(), expected));
  const std::vector<const Parameter*> packed = used.packed();
  REQUIRE(packed.size() == 4);
  std::vector<const void*> places;
  for (const Parameter* parameter : packed) places.push_back(parameter->panels.raw());
  CHECK(all_same_bits(used.outputs(), expected));
  for (std::size_t i = 0; i < packed.size(); ++i) CHECK(packed[i]->panels.raw() == places[i]);
  CHECK(trained.packed().empty());

  // A new parameter set discards the packed weights of the old one.
  const ParameterSet other(used, DType::f32, 2, Device::cpu, ParameterUse::inference);
  CHECK(used.packed().empty());
  CHECK_FALSE(all_same_bits(used.outputs(), expected));
}

TEST_CASE("evaluation between steps of training sees the weights that a step has changed", "[module]") {
  EachProduct model, again;
  const ParameterSet set(model, DType::f32, 1), changed(again, DType::f32, 2);
  const std::vector<Tensor> before = model.outputs();
  for (std::size_t i = 0; i < set.segments().size(); ++i)
    set.segments()[i].values.copy_from(changed.segments()[i].values);
  CHECK(all_same_bits(model.outputs(), again.outputs()));
  CHECK_FALSE(all_same_bits(model.outputs(), before));
  CHECK(model.packed().empty());
}

TEST_CASE("buffers have names like parameters and the initial values given", "[module]") {
  struct Counter : Module {
    Buffer& count = add_buffer("count", {3}, 2.5);
  };
  struct Counting : Module {
    Counting() { add_module("counter", counter), add_module("head", head); }
    Counter counter;
    Linear head{5, 2};
  } model;
  const ParameterSet set(model, DType::f32, 1);
  REQUIRE(set.buffers() == std::vector<Buffer*>{&model.counter.count});
  CHECK(model.counter.count.name == "counter.count");
  CHECK(same_bits(model.counter.count.values, Tensor::of<float>({3}, {2.5f, 2.5f, 2.5f})));
  CHECK(set.parameters().size() == 2);
}

TEST_CASE("a number of heads that does not divide the hidden size is an Error", "[module]") {
  CHECK_THROWS_WITH(MultiHeadAttention(10, 3), "attention: 3 heads do not divide a hidden size of 10");
}

}  // namespace
}  // namespace conclave

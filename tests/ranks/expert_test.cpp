#include <catch2/catch.hpp>
#include <cmath>
#include <map>

#include "autograd/nn/parameter_set.h"
#include "parallel/moe/moe_layer.h"
#include "tests/core/values.h"
#include "tests/ranks/test_world.h"

namespace conclave {
namespace {

// An example of a user-defined kind of expert: each expert multiplies its rows by its own vector.
class ScalingExperts final : public BaseExpert {
 public:
  explicit ScalingExperts(const ExpertOptions& options)
      : BaseExpert(options),
        scale_(add_expert_parameter("scale", {options.hidden}, Initializer::normal(1))) {}

  Tensor forward(Tape& tape, const ExpertInput& input) override {
    const auto& [rows, offsets, _] = input;
    // Diagonal matrices would work, too, but a look-up of the expert of each row is simpler.
    const Tensor ids = tape.empty({rows.size(0)}, DType::i32);
    for (Index e = 0; e < options_.count; ++e)
      for (Index row = offsets[size_t(e)]; row < offsets[size_t(e) + 1]; ++row)
        ids.data<std::int32_t>()[row] = static_cast<std::int32_t>(e);
    return functions::multiply(tape, rows, functions::embedding(tape, ids, scale_.value));
  }

 private:
  Parameter& scale_;
};

const ExpertRegistration kScaling{
    "test_scaling", [](const ExpertOptions& options) { return std::make_unique<ScalingExperts>(options); }};

TEST_CASE("an unknown kind of expert is refused with the list of those there are", "[expert]") {
  CHECK_THROWS_WITH(make_experts("dense", {}),
                    "no kind of expert is named 'dense'; there are: feed_forward, gated, test_counting, "
                    "test_noting, test_recurrent, test_scaling, test_sharing");
  CHECK(expert_kinds() == std::vector<std::string>{"feed_forward", "gated", "test_counting", "test_noting",
                                                   "test_recurrent", "test_scaling", "test_sharing"});
}

// With one more parameter, which all its experts share.
struct SharingExperts : BaseExpert {
  explicit SharingExperts(const ExpertOptions& options) : BaseExpert(options) {
    add_parameter("shared", {options.hidden}, Initializer::constant(1));
  }
  Tensor forward(Tape&, const ExpertInput& input) override { return input.rows; }
};
CONCLAVE_REGISTER_EXPERT("test_sharing", SharingExperts);

TEST_CASE("experts may share a parameter only if every rank has experts of their kind", "[expert]") {
  const ExpertOptions options{.hidden = 4, .ffn = 1, .count = 2, .total = 2};
  CHECK_NOTHROW(MixedExperts({{"test_sharing", 2}}, options));
  CHECK_THROWS_WITH(MixedExperts({{"test_sharing", 1}, {"feed_forward", 1}}, options),
                    Catch::Contains("'test_sharing': parameter shared is not per expert"));
}

TEST_CASE("a kind of expert registered by a user runs in the layer, divided over the ranks", "[expert]") {
  Communicator& world = test_world();
  const ProcessGrid grid(world.split(0), world.size());
  MoeOptions options;
  options.hidden = 4;
  options.ffn = 1;
  options.top_k = 1;
  options.expert = "test_scaling";
  options.balancer = "none";
  MoeLayer layer(options, grid);
  ParameterSet parameters(layer, DType::f64, 3);
  const Parameter& scale = *layer.named_parameters().back().second;
  CHECK(scale.name == "experts.scale");
  CHECK(scale.shape == Shape{8 / world.size(), 4});
  CHECK(scale.first_row == world.rank() * 8 / world.size());
  CHECK(scale.global_shape() == Shape{8, 4});
  const Tensor scales = Tensor::empty({8, 4}, DType::f64);
  world.all_gather(scale.value, scales);

  const Tensor x = random_values({10, 4}, static_cast<std::uint32_t>(world.rank())), expected = x.clone();
  Arena arena("test");
  Tape tape(arena, false);
  ForwardContext context;
  const Tensor y = layer(tape, context, x, Tensor::of<std::int32_t>({2}, {0, 10}));
  const auto chosen = layer.chosen_experts(tape).span<std::int32_t>();
  for (Index i = 0; i < x.numel(); ++i)
    expected.data<double>()[i] *= scales.data<double>()[chosen[static_cast<std::size_t>(i / 4)] * 4 + i % 4];
  CHECK(distance(y, expected) < 1e-14);
}

TEST_CASE("gated experts compute down(silu(gate x) * up x)", "[expert]") {
  constexpr Index kHidden = 4, kFfn = 6;
  const auto experts = make_experts("gated", {.hidden = kHidden, .ffn = kFfn, .count = 2, .total = 2});
  CHECK(experts->name() == "gated");
  CHECK(experts->flops_per_row() == 2 * 3 * kHidden * kFfn);
  ParameterSet parameters(*experts, DType::f64, 3);
  std::map<std::string, const double*> weight;
  for (const Parameter* parameter : parameters.parameters())
    weight[parameter->name] = parameter->value.data<double>();
  const Tensor x = random_values({5, kHidden}, 1), expected = Tensor::zeros({5, kHidden}, DType::f64);
  const Index offsets[] = {0, 2, 5};
  for (Index row = 0; row < 5; ++row)
    for (Index f = 0; f < kFfn; ++f) {
      const Index inner = (row < 2 ? 0 : kFfn) + f;
      double gate = 0, up = 0;
      for (Index h = 0; h < kHidden; ++h) {
        gate += weight["gate.weight"][inner * kHidden + h] * x.data<double>()[row * kHidden + h];
        up += weight["up.weight"][inner * kHidden + h] * x.data<double>()[row * kHidden + h];
      }
      for (Index h = 0; h < kHidden; ++h)
        expected.data<double>()[row * kHidden + h] +=
            weight["down.weight"][(row < 2 ? 0 : kHidden * kFfn) + h * kFfn + f] * gate /
            (1 + std::exp(-gate)) * up;
    }
  Arena arena("test");
  Tape tape(arena, false);
  CHECK(distance(experts->forward(tape, {x, offsets}), expected) < 1e-14);
}

TEST_CASE("an expert option names one kind for all experts or a number for each kind", "[expert]") {
  const auto shares = [](const std::string& text) {
    std::string shown;
    for (const auto& [kind, count] : expert_shares(text, 8)) shown += std::to_string(count) + kind + ' ';
    return shown;
  };
  CHECK(shares("gated") == "8gated ");
  CHECK(shares("8 gated") == "8gated ");
  CHECK(shares(" 6 feed_forward,1  gated , 1 lstm") == "6feed_forward 1gated 1lstm ");
  CHECK_THROWS_WITH(shares("6 feed_forward, 1 gated"),
                    "these are 7 experts, and the layer has 8; make them as many, or change either");
  CHECK_THROWS_WITH(shares("4 gated, 4 gated"), "kind 'gated' is given twice; add the two numbers up");
  for (const char* text : {"", ",", "gated,", "8 ", "gated 8", "-8 gated", "4 a b, 4 c", "a b"})
    CHECK_THROWS_WITH(shares(text), Catch::Contains("name one kind for all, or how many of each"));
  CHECK_THROWS_WITH(shares("9223372036854775807 a, 9223372036854775807 b"), Catch::Contains("cannot be"));
}

TEST_CASE("experts that fail or return a wrong shape are named", "[expert]") {
  struct Failing : BaseExpert {
    using BaseExpert::BaseExpert;
    Tensor forward(Tape&, const ExpertInput& input) override {
      if (input.rows.size(0) == 1) throw std::runtime_error("one is none");
      return input.rows.rows(1, input.rows.size(0));
    }
  };
  const ExpertRegistration failing{"test_failing", [](const ExpertOptions& options) {
                                     require(options.ffn > 0, "no ffn");
                                     return std::make_unique<Failing>(options);
                                   }};
  const ExpertRegistration nothing{"test_nothing", [](const ExpertOptions&) { return nullptr; }};
  const auto make = [](const char* kind, Index ffn) {
    return std::make_unique<MixedExperts>(expert_shares(kind, 1),
                                          ExpertOptions{.hidden = 2, .ffn = ffn, .count = 1, .total = 1});
  };
  CHECK_THROWS_WITH(make("test_failing", 0), "experts of kind 'test_failing' cannot be made: no ffn");
  CHECK_THROWS_WITH(make("test_nothing", 1),
                    "experts of kind 'test_nothing' cannot be made: the factory returned null");
  const auto experts = make("test_failing", 1);
  Arena arena("test");
  Tape tape(arena, false);
  const auto run = [&](Index rows) {
    experts->forward(tape, {Tensor::zeros({rows, 2}), std::array{Index{0}, rows}});
  };
  CHECK_THROWS_WITH(run(1), "experts of kind 'test_failing': forward: one is none");
  CHECK_THROWS_WITH(run(3),
                    "experts of kind 'test_failing': forward returned f32 [2, 2], expected f32 [3, 2], a row "
                    "for each that came");
}

TEST_CASE("feed-forward experts have PyTorch's names and layouts", "[expert]") {
  const auto experts =
      make_experts("feed_forward", {.hidden = 4, .ffn = 6, .first = 2, .count = 3, .total = 8});
  std::vector<std::string> found;
  for (const auto& [name, parameter] : experts->named_parameters()) {
    found.push_back(name + " " + parameter->shape.to_string() + " " + parameter->global_shape().to_string());
    CHECK(parameter->sharded);
    CHECK(parameter->first_row == 2);
    CHECK(parameter->decay == name.ends_with("weight"));
  }
  CHECK(found == std::vector<std::string>{"up.weight [3, 6, 4] [8, 6, 4]", "up.bias [3, 6] [8, 6]",
                                          "down.weight [3, 4, 6] [8, 4, 6]", "down.bias [3, 4] [8, 4]"});
}

}  // namespace
}  // namespace conclave

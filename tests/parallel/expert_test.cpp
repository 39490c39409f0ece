#include <catch2/catch.hpp>

#include "autograd/nn/parameter_set.h"
#include "parallel/moe/moe_layer.h"
#include "tests/core/values.h"
#include "tests/parallel/test_world.h"

namespace conclave {
namespace {

// A kind of expert that a user might add: expert number e multiplies its rows by a vector of its own.
class ScalingExperts final : public BaseExpert {
 public:
  explicit ScalingExperts(const ExpertOptions& options)
      : BaseExpert(options),
        scale_(add_expert_parameter("scale", {options.hidden}, Initializer::normal(1))) {}

  Tensor forward(Tape& tape, const Tensor& rows, kernels::RowOffsets offsets) override {
    // diagonal matrices would do, but a look-up of each row's expert is simpler to follow
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
                    "no kind of expert is named 'dense'; there are: feed_forward, test_scaling");
  CHECK(expert_kinds() == std::vector<std::string>{"feed_forward", "test_scaling"});
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
  for (Index i = 0; i < x.numel(); ++i)
    expected.data<double>()[i] *=
        scales.data<double>()[layer.chosen_experts().data<std::int32_t>()[i / 4] * 4 + i % 4];
  CHECK(distance(y, expected) < 1e-14);
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

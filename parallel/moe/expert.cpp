#include "parallel/moe/expert.h"

#include "core/registry.h"

namespace conclave {
namespace {

/// down(gelu(up(x))) for all experts of the rank at once, by grouped products.
class FeedForwardExperts final : public BaseExpert {
 public:
  explicit FeedForwardExperts(const ExpertOptions& options)
      : BaseExpert(options),
        up_(add_expert_parameter("up.weight", {options.ffn, options.hidden},
                                 Initializer::fan_in(options.hidden))),
        up_bias_(add_expert_parameter("up.bias", {options.ffn}, Initializer::constant(0), false)),
        down_(add_expert_parameter("down.weight", {options.hidden, options.ffn},
                                   Initializer::fan_in(options.ffn))),
        down_bias_(add_expert_parameter("down.bias", {options.hidden}, Initializer::constant(0), false)) {}

  Tensor forward(Tape& tape, const ExpertInput& input) override {
    const Tensor inner = functions::grouped_linear(tape, input.rows, input.offsets, up_.value, up_bias_.value,
                                                   Activation::gelu);
    return functions::grouped_linear(tape, inner, input.offsets, down_.value, down_bias_.value);
  }

 private:
  Parameter &up_, &up_bias_, &down_, &down_bias_;
};

/// down(silu(gate(x)) * up(x)).
class GatedExperts final : public BaseExpert {
 public:
  explicit GatedExperts(const ExpertOptions& options)
      : BaseExpert(options),
        gate_(matrix("gate.weight", options.ffn, options.hidden)),
        up_(matrix("up.weight", options.ffn, options.hidden)),
        down_(matrix("down.weight", options.hidden, options.ffn)) {}

  Tensor forward(Tape& tape, const ExpertInput& input) override {
    const auto product = [&](const Tensor& x, const Parameter& weight, Activation activation) {
      return functions::grouped_linear(tape, x, input.offsets, weight.value, Tensor(), activation);
    };
    const Tensor gate = product(input.rows, gate_, Activation::silu),
                 up = product(input.rows, up_, Activation::none);
    return product(functions::multiply(tape, gate, up), down_, Activation::none);
  }

 private:
  Parameter& matrix(const char* name, Index out, Index in) {
    return add_expert_parameter(name, {out, in}, Initializer::fan_in(in));
  }
  Parameter &gate_, &up_, &down_;
};

template <class Experts>
ExpertFactory factory() {
  return [](const ExpertOptions& options) { return std::make_unique<Experts>(options); };
}

// A function's static, so that registrations in other files' initializers find it constructed.
Registry<ExpertFactory>& registry() {
  static Registry<ExpertFactory> kinds(
      "expert", "experts",
      {{"feed_forward", factory<FeedForwardExperts>()}, {"gated", factory<GatedExperts>()}});
  return kinds;
}

}  // namespace

Parameter& BaseExpert::add_expert_parameter(std::string name, Shape per_expert, Initializer initializer,
                                            bool decay) {
  std::vector<Index> extents{options_.count};
  extents.insert(extents.end(), per_expert.extents().begin(), per_expert.extents().end());
  Parameter& parameter = add_parameter(std::move(name), Shape(extents), initializer, decay);
  parameter.sharded = true;
  parameter.first_row = options_.first;
  parameter.global_rows = options_.total;
  return parameter;
}

double BaseExpert::flops_per_row() const {
  double multiplications = 0;
  for (const auto& [name, parameter] : named_parameters())
    if (const Shape& shape = parameter->shape; parameter->sharded && shape.rank() == 3)
      multiplications += static_cast<double>(shape[1] * shape[2]);
  return 2 * multiplications;
}

std::string BaseExpert::described() const { return registry().describe(name()); }

ExpertRegistration::ExpertRegistration(const std::string& name, ExpertFactory factory, const char*) {
  register_kind([=](const std::string& plugin) { registry().add(name, factory, plugin); });
}

void expect_expert_kind(const std::string& name) { registry().find(name); }

std::vector<std::string> expert_kinds() { return registry().names(); }

std::unique_ptr<BaseExpert> make_experts(const std::string& name, ExpertOptions options) {
  options.name = name;
  return registry().make(name, options);
}

}  // namespace conclave

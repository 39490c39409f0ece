#include "parallel/moe/expert.h"

#include "core/registry.h"

namespace conclave {
namespace {

/// A product of rows with the matrices of their experts.
struct Product {
  Parameter& weight;
  Parameter* bias;
  std::unique_ptr<Quantizer> quantizer;

  Tensor operator()(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, Activation activation) const {
    const Tensor biases = bias ? bias->value : Tensor();
    return quantizer ? quantizer->product(tape, x, offsets, weight.value, biases, activation)
                     : functions::grouped_linear(tape, x, offsets, weight.value, biases, activation);
  }
};

/// down(gelu(up(x))) for all experts of the rank at once, with grouped products.
class FeedForwardExperts final : public BaseExpert {
 public:
  explicit FeedForwardExperts(const ExpertOptions& options)
      : BaseExpert(options),
        up_(product("up", options.ffn, options.hidden)),
        down_(product("down", options.hidden, options.ffn)) {}

  Tensor forward(Tape& tape, const ExpertInput& input) override {
    if (up_.quantizer)
      return up_.quantizer->products(tape, input.rows, input.offsets, up_.weight.value, up_.bias->value,
                                     Activation::gelu, *down_.quantizer, down_.weight.value,
                                     down_.bias->value);
    const Tensor inner = up_(tape, input.rows, input.offsets, Activation::gelu);
    return down_(tape, inner, input.offsets, Activation::none);
  }

 private:
  Product product(const std::string& name, Index out, Index in) {
    Parameter& weight = add_expert_parameter(name + ".weight", {out, in}, Initializer::fan_in(in));
    Parameter& bias = add_expert_parameter(name + ".bias", {out}, Initializer::constant(0), false);
    return {weight, &bias, make_quantizer(name, weight)};
  }
  Product up_, down_;
};

/// down(silu(gate(x)) * up(x)).
class GatedExperts final : public BaseExpert {
 public:
  explicit GatedExperts(const ExpertOptions& options)
      : BaseExpert(options),
        gate_(product("gate", options.ffn, options.hidden)),
        up_(product("up", options.ffn, options.hidden)),
        down_(product("down", options.hidden, options.ffn)) {}

  Tensor forward(Tape& tape, const ExpertInput& input) override {
    const Tensor gate = gate_(tape, input.rows, input.offsets, Activation::silu),
                 up = up_(tape, input.rows, input.offsets, Activation::none);
    return down_(tape, functions::multiply(tape, gate, up), input.offsets, Activation::none);
  }

 private:
  Product product(const std::string& name, Index out, Index in) {
    Parameter& weight = add_expert_parameter(name + ".weight", {out, in}, Initializer::fan_in(in));
    return {weight, nullptr, make_quantizer(name, weight)};
  }
  Product gate_, up_, down_;
};

template <class Experts>
ExpertFactory factory() {
  return [](const ExpertOptions& options) { return std::make_unique<Experts>(options); };
}

// A static inside a function, so that registrations in other files' initializers find it constructed.
Registry<ExpertFactory>& expert_registry() {
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

std::unique_ptr<Quantizer> BaseExpert::make_quantizer(std::string name, const Parameter& weight) {
  if (!options_.quantization) return nullptr;
  auto quantizer = std::make_unique<Quantizer>(
      *options_.quantization, weight,
      QuantizedGroups{
          .total = options_.total, .first = options_.first, .count = options_.count, .sharded = true});
  add_module(std::move(name), *quantizer);
  return quantizer;
}

double BaseExpert::flops_per_row() const {
  double multiplications = 0;
  for (const auto& [name, parameter] : named_parameters())
    if (const Shape& shape = parameter->shape; parameter->sharded && shape.rank() == 3)
      multiplications += static_cast<double>(shape[1] * shape[2]);
  return 2 * multiplications;
}

std::string BaseExpert::described() const { return expert_registry().describe(name()); }

ExpertRegistration::ExpertRegistration(const std::string& name, ExpertFactory factory, const char*) {
  register_kind([=](const std::string& plugin) { expert_registry().add(name, factory, plugin); });
}

void expect_expert_kind(const std::string& name) { expert_registry().find(name); }

std::vector<std::string> expert_kinds() { return expert_registry().names(); }

std::unique_ptr<BaseExpert> make_experts(const std::string& name, ExpertOptions options) {
  options.name = name;
  return expert_registry().make(name, options);
}

}  // namespace conclave

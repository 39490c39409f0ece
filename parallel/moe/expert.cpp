#include "parallel/moe/expert.h"

#include "parallel/moe/registry.h"

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

  Tensor forward(Tape& tape, const Tensor& rows, kernels::RowOffsets offsets) override {
    const Tensor inner =
        functions::grouped_linear(tape, rows, offsets, up_.value, up_bias_.value, Activation::gelu);
    return functions::grouped_linear(tape, inner, offsets, down_.value, down_bias_.value);
  }

 private:
  Parameter &up_, &up_bias_, &down_, &down_bias_;
};

// A function's static, so that registrations in other files' initializers find it constructed.
Registry<ExpertFactory>& registry() {
  static Registry<ExpertFactory> kinds("expert", {{"feed_forward", [](const ExpertOptions& options) {
                                                     return std::make_unique<FeedForwardExperts>(options);
                                                   }}});
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

ExpertRegistration::ExpertRegistration(const std::string& name, ExpertFactory factory) {
  registry().add(name, std::move(factory));
}

std::vector<std::string> expert_kinds() { return registry().names(); }

std::unique_ptr<BaseExpert> make_experts(const std::string& name, const ExpertOptions& options) {
  return registry().find(name)(options);
}

}  // namespace conclave

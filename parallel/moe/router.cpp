#include "parallel/moe/router.h"

#include "parallel/moe/registry.h"

namespace conclave {
namespace {

class LinearRouter final : public Router {
 public:
  explicit LinearRouter(const RouterOptions& options)
      : Router(options),
        weight_(add_parameter("weight", {options.experts, options.hidden},
                              Initializer::fan_in(options.hidden))) {}

  RouterScope scope() const override { return RouterScope::token; }
  Tensor scores(Tape& tape, const Tensor& x, const Tensor& /*offsets*/) override {
    return functions::linear(tape, x, weight_.value, Tensor());
  }

 private:
  Parameter& weight_;
};

class AttentionRouter final : public Router {
 public:
  AttentionRouter(const RouterOptions& options, RouterScope scope)
      : Router(options),
        scope_(scope),
        attention_(options.hidden, options.heads),
        score_(options.hidden, options.experts, false) {
    add_module("attention", attention_);
    add_module("score", score_);
  }

  RouterScope scope() const override { return scope_; }
  Tensor scores(Tape& tape, const Tensor& x, const Tensor& offsets) override {
    Tensor attended = attention_(tape, x, offsets);
    if (scope_ == RouterScope::sequence) attended = functions::segment_mean(tape, attended, offsets);
    return score_(tape, attended);
  }

 private:
  RouterScope scope_;
  MultiHeadAttention attention_;
  Linear score_;
};

RouterFactory attention(RouterScope scope) {
  return [scope](const RouterOptions& options) { return std::make_unique<AttentionRouter>(options, scope); };
}

// A function's static, so that registrations in other files' initializers find it constructed.
Registry<RouterFactory>& registry() {
  static Registry<RouterFactory> kinds(
      "router",
      {{"linear", [](const RouterOptions& options) { return std::make_unique<LinearRouter>(options); }},
       {"attention", attention(RouterScope::sequence)},
       {"attention_token", attention(RouterScope::token_in_sequence)}});
  return kinds;
}

}  // namespace

Tensor Router::operator()(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets) {
  const bool per_sequence = scope() == RouterScope::sequence;
  Tensor decisions = scores(tape, x, offsets);
  const Index sequences = offsets.numel() - 1;
  kernels::expect("router", "its scores", decisions, {per_sequence ? sequences : x.size(0), options_.experts},
                  x.dtype());
  if (context.training && options_.noise > 0) {
    const RandomStream stream = context.next_stream();
    const auto first = static_cast<std::uint64_t>(
        (per_sequence ? context.first_sequence : context.first_token) * options_.experts);
    const Tensor noise = tape.empty(decisions.shape(), decisions.dtype());
    for_floating(noise.dtype(), "router noise", [&]<class T>(T) {
      T* values = noise.data<T>();
      for (Index i = 0; i < noise.numel(); ++i)
        values[i] = static_cast<T>(options_.noise * stream.normal(first + static_cast<std::uint64_t>(i)));
    });
    decisions = functions::add(tape, decisions, noise);
  }
  if (!per_sequence) return decisions;
  const Tensor sequence_of = tape.empty({x.size(0)}, DType::i32);
  const auto bounds = offsets.span<std::int32_t>();
  for (Index s = 0; s < sequences; ++s)
    sequence_of.rows(bounds[static_cast<std::size_t>(s)], bounds[static_cast<std::size_t>(s) + 1])
        .fill(static_cast<double>(s));
  return functions::embedding(tape, sequence_of, decisions);
}

RouterRegistration::RouterRegistration(const std::string& name, RouterFactory factory) {
  registry().add(name, std::move(factory));
}

std::vector<std::string> router_kinds() { return registry().names(); }

std::unique_ptr<Router> make_router(const std::string& name, const RouterOptions& options) {
  return registry().find(name)(options);
}

}  // namespace conclave

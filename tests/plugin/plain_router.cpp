// A plug-in: a router whose scores are W x for each token.
#include "parallel/moe/router.h"

namespace {

using namespace conclave;

struct PlainRouter : Router {
  using Router::Router;
  Parameter& weight =
      add_parameter("weight", {options_.experts, options_.hidden}, Initializer::fan_in(options_.hidden));
  RouterScope scope() const override { return RouterScope::token; }
  Tensor scores(Tape& tape, const Tensor& x, const Tensor& /*offsets*/) override {
    return functions::linear(tape, x, weight.value, Tensor());
  }
};

CONCLAVE_REGISTER_ROUTER("plain", PlainRouter);

}  // namespace

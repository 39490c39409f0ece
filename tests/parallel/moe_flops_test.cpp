// What mixtures of experts cost, by hand, whatever part of the experts a rank has.
#include <catch2/catch.hpp>

#include "recipes/models/model.h"
#include "tests/parallel/moe_run.h"

namespace conclave {
namespace {

constexpr Index kHidden = 8, kFfn = 12, kTokens = 6;
constexpr double kFeedForward = kTokens * 2.0 * 2 * kHidden * kFfn,
                 kGated = kTokens * 2.0 * 3 * kHidden * kFfn, kRouter = kTokens * 2.0 * kHidden * 4;
constexpr Index kFeedForwardParameters = 2 * kHidden * kFfn + kFfn + kHidden;

TEST_CASE("a mixture costs its router, the experts of each token and the shared ones", "[moe][flops]") {
  for (const int expert_parallel : grid_shapes()) {
    const ProcessGrid grid = grid_of(expert_parallel);
    MoeOptions options{.hidden = kHidden, .ffn = kFfn, .experts = 4, .top_k = 2, .router_heads = 2};
    const auto flops = [&] {
      Extent text{1, kTokens};
      return MoeLayer(options, grid).flops(text);
    };
    CHECK(flops() == kRouter + 2 * kFeedForward);
    CHECK(MoeLayer(options, grid).parameter_count() == kHidden * 4 + 4 * kFeedForwardParameters);
    options.expert = "3 feed_forward, 1 gated";
    CHECK(flops() == Approx(kRouter + 2 * (3 * kFeedForward + kGated) / 4));
    options.expert = "feed_forward";
    options.shared_experts = 1;
    CHECK(flops() == kRouter + 3 * kFeedForward);
    const double pairs = kTokens * kTokens * 2.0 * 2 * kHidden, projection = 2.0 * kHidden * kHidden;
    options.router = "attention_token";
    CHECK(flops() == kTokens * 4 * projection + pairs + kRouter + 3 * kFeedForward);
    options.router = "attention";
    CHECK(flops() == kTokens * 3 * projection + pairs + projection + kRouter / kTokens + 3 * kFeedForward);
  }
}

TEST_CASE("a classifier of texts costs its layers, and its head once", "[moe][flops]") {
  const ProcessGrid grid = grid_of(0);
  ModelRecipe model;
  model.hidden = kHidden, model.heads = 2, model.layers = 2, model.ffn = kFfn;
  MoeRecipe moe;
  moe.experts = 4, moe.top_k = 1, moe.every = 2;
  Recipe recipe;
  recipe.model = model;
  recipe.moe = moe;
  const ModelSizes sizes{.vocabulary = 50, .max_length = 16, .classes = 5, .unknown_token = 0};
  Model model_of_texts(recipe, sizes, grid);
  const Classifier& classifier = *model_of_texts.classifier();
  Extent text{1, kTokens};
  const double attention = kTokens * 2.0 * 4 * kHidden * kHidden + kTokens * kTokens * 2.0 * 2 * kHidden;
  CHECK(classifier.flops(text) ==
        2 * attention + kFeedForward + kRouter + kFeedForward + 2.0 * 2 * kHidden * 5);
  CHECK(text.rows() == 1);
}

}  // namespace
}  // namespace conclave

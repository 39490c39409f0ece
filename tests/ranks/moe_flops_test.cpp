// Costs of mixtures of experts, against counts by hand; they do not depend on how many experts a rank holds.
#include <catch2/catch.hpp>

#include "recipes/models/model.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

constexpr Index kFlopsHidden = 8, kFlopsFfn = 12, kFlopsTokens = 6;
constexpr double kFeedForward = kFlopsTokens * 2.0 * 2 * kFlopsHidden * kFlopsFfn,
                 kGated = kFlopsTokens * 2.0 * 3 * kFlopsHidden * kFlopsFfn,
                 kRouter = kFlopsTokens * 2.0 * kFlopsHidden * 4;
constexpr Index kFeedForwardParameters = 2 * kFlopsHidden * kFlopsFfn + kFlopsFfn + kFlopsHidden;

TEST_CASE("a mixture costs its router, the experts of each token and the shared ones", "[moe][flops]") {
  for (const int expert_parallel : grid_shapes()) {
    const ProcessGrid grid = grid_of(expert_parallel);
    MoeOptions options{.hidden = kFlopsHidden, .ffn = kFlopsFfn, .experts = 4, .top_k = 2, .router_heads = 2};
    const auto flops = [&] {
      Extent text{1, kFlopsTokens};
      return MoeLayer(options, grid).flops(text);
    };
    CHECK(flops() == kRouter + 2 * kFeedForward);
    CHECK(MoeLayer(options, grid).parameter_count() == kFlopsHidden * 4 + 4 * kFeedForwardParameters);
    options.expert = "3 feed_forward, 1 gated";
    CHECK(flops() == Approx(kRouter + 2 * (3 * kFeedForward + kGated) / 4));
    options.expert = "feed_forward";
    options.shared_experts = 1;
    CHECK(flops() == kRouter + 3 * kFeedForward);
    const double pairs = kFlopsTokens * kFlopsTokens * 2.0 * 2 * kFlopsHidden,
                 projection = 2.0 * kFlopsHidden * kFlopsHidden;
    options.router = "attention_token";
    CHECK(flops() == kFlopsTokens * 4 * projection + pairs + kRouter + 3 * kFeedForward);
    options.router = "attention";
    CHECK(flops() ==
          kFlopsTokens * 3 * projection + pairs + projection + kRouter / kFlopsTokens + 3 * kFeedForward);
  }
}

TEST_CASE("a classifier of texts costs its layers, and its head once", "[moe][flops]") {
  const ProcessGrid grid = grid_of(0);
  ModelRecipe model;
  model.hidden = kFlopsHidden, model.heads = 2, model.layers = 2, model.ffn = kFlopsFfn;
  MoeRecipe moe;
  moe.experts = 4, moe.top_k = 1, moe.every = 2;
  Recipe recipe;
  recipe.model = model;
  recipe.moe = moe;
  const ModelSizes sizes{.vocabulary = 50, .max_length = 16, .classes = 5, .unknown_token = 0};
  Model model_of_texts(recipe, sizes, grid);
  const Classifier& classifier = *model_of_texts.classifier();
  Extent text{1, kFlopsTokens};
  const double attention = kFlopsTokens * 2.0 * 4 * kFlopsHidden * kFlopsHidden +
                           kFlopsTokens * kFlopsTokens * 2.0 * 2 * kFlopsHidden;
  CHECK(classifier.flops(text) ==
        2 * attention + kFeedForward + kRouter + kFeedForward + 2.0 * 2 * kFlopsHidden * 5);
  CHECK(text.rows() == 1);
}

TEST_CASE("costs of the parts of a classifier of texts and images add up to the whole", "[moe][flops]") {
  constexpr Index kEmbedding = 4, kVocabulary = 50, kClasses = 5, kLength = 16, kLayers = 3;
  const ProcessGrid grid = grid_of(0);
  Recipe recipe;
  recipe.model.hidden = kFlopsHidden, recipe.model.heads = 2, recipe.model.ffn = kFlopsFfn;
  recipe.model.embedding = kEmbedding, recipe.model.layers = kLayers, recipe.model.share_layers = true;
  recipe.model.bigrams = 10;
  recipe.moe.experts = 4, recipe.moe.top_k = 1;
  recipe.image.stem = 8, recipe.image.blocks = {"k3 x2 c16 s2 se relu"}, recipe.image.tokens = "grid";
  // An image of 8 x 6 pixels becomes 4 x 3 rows.
  constexpr double kPixels = 8 * 6, kGrid = 4 * 3, kRows = kFlopsTokens + kGrid;
  for (const bool depthwise : {true, false}) {
    recipe.image.depthwise = depthwise;
    const ModelSizes sizes{.vocabulary = kVocabulary,
                           .max_length = kLength,
                           .classes = kClasses,
                           .unknown_token = 0,
                           .image = {8, 6, 3}};
    recipe.data.source = "emoji";
    Model model(recipe, sizes, grid);
    const Classifier& classifier = *model.classifier();
    std::map<std::string, Cost> parts;
    Cost sum;
    for (const Cost& cost : classifier.costs(kFlopsTokens)) {
      parts[cost.name] = cost;
      sum.parameters += cost.parameters;
      sum.flops += cost.flops;
    }
    const auto check = [&](const char* name, Index parameters, double flops) {
      CAPTURE(depthwise, name);
      CHECK(parts.at(name).parameters == parameters);
      CHECK(parts.at(name).flops == flops);
    };
    check("token_embedding", kVocabulary * kEmbedding, 0);
    check("position_embedding", kLength * kEmbedding, 0);
    check("embedding_projection", kFlopsHidden * kEmbedding + kFlopsHidden,
          kFlopsTokens * 2.0 * kFlopsHidden * kEmbedding);
    check("image.stem", 8 * 9 * 3, kPixels * 2 * 8 * 9 * 3);
    const double window = kGrid * 2 * 9 * 16 * (depthwise ? 1 : 16);
    check("image.blocks.0",
          8 * 16 + 2 * 16 + 9 * 16 * (depthwise ? 1 : 16) + 2 * 16 + 2 * 4 * 16 + 4 + 16 + 16 * 16 + 2 * 16,
          kPixels * 2 * 8 * 16 + window + 2 * 2 * 4 * 16 + kGrid * 2 * 16 * 16);
    check("image.last", 16 * kFlopsHidden, kGrid * 2 * 16 * kFlopsHidden);
    check("image.position_embedding", static_cast<Index>(kGrid) * kFlopsHidden, 0);
    check("layers.0.attention", 4 * kFlopsHidden * kFlopsHidden + 4 * kFlopsHidden,
          kLayers * (kRows * 2 * 4 * kFlopsHidden * kFlopsHidden + kRows * kRows * 2 * 2 * kFlopsHidden));
    check("layers.0.moe", kFlopsHidden * 4 + 4 * kFeedForwardParameters,
          kLayers * kRows / kFlopsTokens * (kRouter + kFeedForward));
    check("head", (2 * kFlopsHidden + 1) * kClasses, 2.0 * 2 * kFlopsHidden * kClasses);
    check("masked_tokens", kVocabulary + kFlopsHidden * kEmbedding + 3 * kEmbedding, 0);
    CHECK(sum.parameters == model.parameter_count());
    Extent text{1, kFlopsTokens};
    CHECK(classifier.flops(text) == sum.flops);
  }
}

}  // namespace
}  // namespace conclave

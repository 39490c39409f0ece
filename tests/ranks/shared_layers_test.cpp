// A layer that is used several times computes the same as several layers with equal parameters.
#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>

#include "recipes/models/model.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

constexpr Index kSharedLayers = 4, kSharedVocabulary = 30, kSharedClasses = 5, kSharedEmbedding = 6;

// Every second layer has experts.
Recipe shared_recipe(bool shared, Index embedding = 0) {
  Recipe recipe;
  recipe.model.hidden = 8, recipe.model.embedding = embedding, recipe.model.heads = 2;
  recipe.model.layers = kSharedLayers, recipe.model.ffn = 12, recipe.model.share_layers = shared;
  recipe.model.dropout = recipe.model.embedding_dropout = 0;
  recipe.model.token_dropout = embedding > 0 ? 0.3 : 0;
  recipe.train.masked_weight = recipe.model.token_dropout;
  recipe.moe.experts = 4, recipe.moe.every = 2, recipe.moe.balancer = "aux_loss";
  return recipe;
}

// The name that a parameter of layer i has in the model with shared layers.
std::string shared_name(std::string name) {
  for (Index i = 2; i < kSharedLayers; ++i) {
    const std::string own = "layers." + std::to_string(i) + ".";
    if (name.starts_with(own)) name.replace(0, own.size(), "layers." + std::to_string(i % 2) + ".");
  }
  return name;
}

struct SharedScene {
  SharedScene(const Recipe& recipe, const ProcessGrid& grid)
      : model(recipe,
              {.vocabulary = kSharedVocabulary,
               .max_length = 16,
               .classes = kSharedClasses,
               .unknown_token = 1},
              grid),
        parameters(model, DType::f64, 3) {
    for (std::int32_t text = 0; text < 5; ++text) {
      std::vector<std::int32_t> tokens(static_cast<std::size_t>(3 + text));
      for (std::size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = (7 * text + 3 * static_cast<std::int32_t>(i)) % kSharedVocabulary;
      batch.add(tokens, text % kSharedClasses);
    }
    batch.global_tokens = batch.local_tokens();
  }
  TaskOutput forward() {
    ForwardContext context;
    context.global_tokens = batch.global_tokens;
    context.global_sequences = batch.local_sequences();
    return (*model.classifier())(tape, context, model_input(batch));
  }

  // Copies the parameters of the shared layers to each of this model's layers.
  void take_values_of(const SharedScene& shared) const {
    for (const Parameter* parameter : parameters.parameters())
      for (const Parameter* other : shared.parameters.parameters())
        if (shared_name(parameter->name) == other->name) parameter->value.copy_from(other->value);
  }

  Model model;
  ParameterSet parameters;
  Batch batch;
  Arena arena{"test"};
  Tape tape{arena};
};

TEST_CASE("shared layers compute what equal layers do, and have the sum of their gradients",
          "[shared_layers]") {
  const ProcessGrid grid = grid_of(0);
  SharedScene one(shared_recipe(true), grid), many(shared_recipe(false), grid);
  std::map<std::string, Tensor> sums;
  for (const Parameter* parameter : one.parameters.parameters())
    sums[parameter->name] = Tensor::zeros(parameter->shape, DType::f64);
  many.take_values_of(one);

  const Tensor logits = one.forward().logits, expected = many.forward().logits;
  REQUIRE(same_bits(logits, expected));
  const Tensor seed = random_values(logits.shape(), 5);
  one.tape.backward(logits, seed);
  many.tape.backward(expected, seed);
  for (const Parameter* parameter : many.parameters.parameters()) {
    const Tensor& sum = sums.at(shared_name(parameter->name));
    for (Index i = 0; i < sum.numel(); ++i)
      sum.data<double>()[i] += parameter->slot.gradient.data<double>()[i];
  }
  for (const Parameter* parameter : one.parameters.parameters()) {
    CAPTURE(parameter->name);
    CHECK(distance(parameter->slot.gradient, sums.at(parameter->name)) < 1e-12);
  }
}

TEST_CASE("a shared layer with experts reports the choices of each use and counts all", "[shared_layers]") {
  const ProcessGrid grid = grid_of(0);
  SharedScene one(shared_recipe(true), grid), many(shared_recipe(false), grid);
  many.take_values_of(one);
  const auto layers = one.model.moe_layers(), separate = many.model.moe_layers();
  REQUIRE(layers.size() == 1);
  REQUIRE(separate.size() == 2);
  CHECK(layers.front().first == "layers.1.moe");
  const Tensor offsets =
      Tensor::of<std::int32_t>({static_cast<Index>(one.batch.offsets.size())}, one.batch.offsets);
  const Tensor losses = random_values({one.batch.local_sequences()}, 8);
  for (int pass = 0; pass < 2; ++pass) {  // the second pass must not depend on the first
    for (SharedScene* scene : {&one, &many}) {
      scene->forward();
      for (const auto& [name, layer] : scene->model.moe_layers()) {
        layer->reset_statistics();
        layer->attribute_losses(scene->tape, losses, offsets);
      }
    }
    const Tensor chosen = layers.front().second->chosen_experts(one.tape);
    const Index k = layers.front().second->max_experts_per_token();
    REQUIRE(chosen.shape() == Shape{one.batch.local_tokens(), 2 * k});
    for (Index use = 0; use < 2; ++use) {
      const Tensor expected = separate[static_cast<std::size_t>(use)].second->chosen_experts(many.tape);
      for (Index t = 0; t < chosen.size(0); ++t)
        for (Index i = 0; i < k; ++i)
          CHECK(chosen.data<std::int32_t>()[(2 * t + use) * k + i] ==
                expected.data<std::int32_t>()[t * k + i]);
    }
    const auto& statistics = layers.front().second->statistics();
    for (std::size_t e = 0; e < 4; ++e) {
      const auto &first = separate[0].second->statistics(), &second = separate[1].second->statistics();
      CHECK(statistics.loss[e] == Approx(first.loss[e] + second.loss[e]));
      CHECK(statistics.weight[e] == Approx(first.weight[e] + second.weight[e]));
    }
  }
  one.forward();
  many.forward();
  for (std::size_t e = 0; e < 4; ++e)
    CHECK(layers[0].second->statistics().load[e] ==
          separate[0].second->statistics().load[e] + separate[1].second->statistics().load[e]);
}

TEST_CASE("an embedding of another width is projected, also back for hidden tokens", "[shared_layers]") {
  const ProcessGrid grid = grid_of(0);
  SharedScene scene(shared_recipe(true, kSharedEmbedding), grid);
  std::map<std::string, Shape> shapes;
  for (const Parameter* parameter : scene.parameters.parameters()) shapes[parameter->name] = parameter->shape;
  CHECK(shapes.at("token_embedding.weight") == Shape{kSharedVocabulary, kSharedEmbedding});
  CHECK(shapes.at("position_embedding.weight") == Shape{16, kSharedEmbedding});
  CHECK(shapes.at("embedding_projection.weight") == Shape{8, kSharedEmbedding});
  CHECK(shapes.at("masked_tokens.transform.weight") == Shape{kSharedEmbedding, 8});
  const auto output = scene.forward();
  REQUIRE(output.terms().size() == 2);  // the losses of the classes and of the hidden tokens
  const Tensor &classes = output.terms()[0].losses, &hidden = output.terms()[1].losses;
  REQUIRE(hidden.numel() > 0);
  const std::array losses{Tape::Loss{classes, random_values(classes.shape(), 5)},
                          Tape::Loss{hidden, random_values(hidden.shape(), 6)}};
  scene.tape.backward(losses);
  for (const Parameter* parameter : scene.parameters.parameters()) {
    CAPTURE(parameter->name);
    const auto gradient = parameter->slot.gradient.span<double>();
    CHECK(std::ranges::any_of(gradient, [](double value) { return value != 0; }));
  }
  shapes.clear();
  for (const auto& [name, parameter] : SharedScene(shared_recipe(true), grid).model.named_parameters())
    shapes[name] = parameter->shape;
  CHECK(shapes.at("token_embedding.weight") == Shape{kSharedVocabulary, 8});
  CHECK_FALSE(shapes.contains("embedding_projection.weight"));
  CHECK_FALSE(shapes.contains("masked_tokens.transform.weight"));
}

}  // namespace
}  // namespace conclave

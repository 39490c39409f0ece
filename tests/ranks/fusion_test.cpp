// Classifiers of images together with texts (model.fusion).
#include <catch2/catch.hpp>
#include <cmath>
#include <set>
#include <tuple>

#include "recipes/models/model.h"
#include "tests/autograd/gradient.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

constexpr Index kFusionSide = 4, kFusionRows = 4, kFusionHidden = 8,
                kFusionClasses = 3;  // an image has kFusionRows = 2 x 2 rows

Recipe fusion_recipe(const std::string& fusion, double image_weight = 0.5) {
  Recipe recipe;
  recipe.data.source = "emoji", recipe.data.classes = "group";
  recipe.image.stem = 8, recipe.image.blocks = {"k3 x1 c8 s2 se hs"}, recipe.image.tokens = "grid";
  recipe.model.hidden = kFusionHidden, recipe.model.heads = 2, recipe.model.layers = 1, recipe.model.ffn = 12;
  recipe.model.dropout = recipe.model.embedding_dropout = 0;
  recipe.model.fusion = fusion, recipe.model.image_weight = image_weight;
  recipe.moe.experts = 4, recipe.moe.balancer = "none";
  return recipe;
}

enum class Shown { both, image, text };

void add(Batch& batch, Index number, Shown shown) {
  std::vector<std::int32_t> tokens(shown == Shown::image ? 0 : static_cast<std::size_t>(2 + number % 3));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::int32_t>((7 * number + 3 * static_cast<Index>(i)) % 20);
  const auto pixels = batch.add(tokens, static_cast<std::int32_t>(number % kFusionClasses), kFusionRows,
                                shown == Shown::text ? 0 : 3 * kFusionSide * kFusionSide);
  for (std::size_t i = 0; i < pixels.size(); ++i)
    pixels[i] = static_cast<std::uint8_t>(37 * i * (static_cast<std::size_t>(number) + 2) % 251);
}

constexpr std::array kShown{Shown::both, Shown::text, Shown::both, Shown::image,
                            Shown::both, Shown::both, Shown::text};

struct FusionScene {
  FusionScene(const Recipe& recipe, const ProcessGrid& grid)
      : model(recipe,
              {.vocabulary = 20,
               .max_length = 8,
               .classes = kFusionClasses,
               .unknown_token = 1,
               .image = {kFusionSide, kFusionSide, 3}},
              grid),
        parameters(model, DType::f64, 3) {}

  /// The forward pass of examples [first, last) of kShown, as one rank's share of a batch of all examples.
  TaskOutput forward(std::size_t first = 0, std::size_t last = kShown.size()) {
    batch.clear();
    for (std::size_t i = 0; i < first; ++i) add(batch, static_cast<Index>(i), kShown[i]);
    ForwardContext context{.training = training,
                           .stream = {.step = step},
                           .first_token = batch.local_tokens(),
                           .first_sequence = batch.local_sequences()};
    if (training) tape.stop_planning();
    batch.clear();
    for (std::size_t i = first; i < last; ++i) add(batch, static_cast<Index>(i), kShown[i]);
    return (*model.classifier())(tape, context, model_input(batch));
  }
  Parameter& parameter(const std::string& name) {
    for (Parameter* one : parameters.parameters())
      if (one->name == name) return *one;
    FAIL(name);
    throw;
  }

  bool training = false;
  std::uint32_t step = 0;
  Model model;
  ParameterSet parameters;
  Batch batch;
  Arena arena{"test"};
  Tape tape{arena};
};

TEST_CASE("fusion: gradients of all parameters, with examples that lack an image or a text", "[fusion]") {
  const ProcessGrid grid = grid_of(0);
  for (const char* fusion : {"cross", "late"}) {
    CAPTURE(fusion);
    FusionScene scene(fusion_recipe(fusion, 0.7), grid);
    const auto losses = [&] { return scene.forward().losses; };
    const Tensor first = losses();
    const Tensor seed = random_values(first.shape(), 5);
    scene.tape.backward(first, seed);
    const auto loss = [&] {
      const Tensor values = losses();
      double sum = 0;
      for (Index i = 0; i < values.numel(); ++i) sum += values.data<double>()[i] * seed.data<double>()[i];
      return sum;
    };
    // Checks the derivative along one random direction for each parameter.
    for (Parameter* parameter : scene.parameters.parameters()) {
      CAPTURE(parameter->name);
      const Tensor direction = random_values(parameter->shape, 6), value = parameter->value;
      double analytic = 0;
      for (Index i = 0; i < value.numel(); ++i)
        analytic += direction.data<double>()[i] * parameter->slot.gradient.data<double>()[i];
      constexpr double kStep = 1e-7;
      const auto moved = [&](double by) {
        for (Index i = 0; i < value.numel(); ++i) value.data<double>()[i] += by * direction.data<double>()[i];
      };
      moved(kStep);
      const double above = loss();
      moved(-2 * kStep);
      const double below = loss();
      moved(kStep);
      CHECK(analytic == Approx((above - below) / (2 * kStep)).epsilon(1e-5).margin(1e-7));
    }
  }
}

TEST_CASE("fusion: modality weights start at the prior and are used only for pairs", "[fusion]") {
  const ProcessGrid grid = grid_of(0);
  CHECK(FusionScene(fusion_recipe("joint"), grid).model.classifier()->image_weight() == std::nullopt);
  CHECK(FusionScene(fusion_recipe("late"), grid).model.classifier()->image_weight() == std::nullopt);
  FusionScene scene(fusion_recipe("cross", 0.7), grid);
  CHECK(scene.model.classifier()->image_weight().value() == Approx(0.7));
  const Tensor logits = scene.forward().logits;
  scene.tape.backward(logits, random_values(logits.shape(), 2));
  Parameter &image = scene.parameter("fusion.image"), &text = scene.parameter("fusion.text");
  const double gradient = image.slot.gradient.data<double>()[0];
  CHECK(std::abs(gradient) > 1e-6);
  CHECK(text.slot.gradient.data<double>()[0] == Approx(-gradient));  // because the two weights sum to 1
  CHECK(!image.decay);

  image.value.data<double>()[0] += 1;
  CHECK(scene.model.classifier()->image_weight().value() == Approx(0.7 * M_E / (0.7 * M_E + 0.3)));
  const Tensor moved = scene.forward().logits;
  for (std::size_t i = 0; i < kShown.size(); ++i) {
    CAPTURE(i);
    const auto row = static_cast<Index>(i);
    const double apart = distance(logits.rows(row, row + 1), moved.rows(row, row + 1));
    if (kShown[i] == Shown::both)
      CHECK(apart > 1e-6);
    else
      CHECK(apart == 0);
  }
}

TEST_CASE("fusion: modalities meet only in cross-attention", "[fusion]") {
  const ProcessGrid grid = grid_of(0);
  FusionScene scene(fusion_recipe("cross"), grid);
  const Tensor none = Tensor::zeros({kFusionHidden, kFusionHidden}, DType::f64);
  scene.parameter("fusion.attention.out.weight").value.copy_from(none);  // turns cross-attention off
  scene.parameter("fusion.image").value.data<double>()[0] = -50;         // gives texts all of the weight
  const Tensor logits = scene.forward().logits;
  for (std::uint8_t& pixel : scene.batch.images) pixel = static_cast<std::uint8_t>(pixel / 2);
  ForwardContext context;
  const Tensor others = (*scene.model.classifier())(scene.tape, context, model_input(scene.batch)).logits;
  for (std::size_t i = 0; i < kShown.size(); ++i) {
    CAPTURE(i);
    const auto row = static_cast<Index>(i);
    const double apart = distance(logits.rows(row, row + 1), others.rows(row, row + 1));
    if (kShown[i] == Shown::image)
      CHECK(apart > 1e-6);
    else
      CHECK(apart < 1e-12);
  }
}

TEST_CASE("fusion: text_dropout hides texts that have an image, in training", "[fusion]") {
  const ProcessGrid grid = grid_of(0);
  constexpr int kSteps = 200;
  Recipe recipe = fusion_recipe("joint");
  recipe.model.text_dropout = 0.3;
  FusionScene scene(recipe, grid);
  scene.training = true;
  const Tensor tokens = scene.parameter("token_embedding.weight").value;
  const Tensor before = Tensor::empty(tokens.shape(), DType::f64);
  before.copy_from(tokens);
  int hidden = 0, texts = 0;
  for (scene.step = 0; scene.step < kSteps; ++scene.step) {
    const Tensor logits = scene.forward().logits;
    for (Index i = 0; i < tokens.numel(); ++i)
      if (i / kFusionHidden != 1) tokens.data<double>()[i] += 0.1 * static_cast<double>(i % 3);
    const Tensor others = scene.forward().logits;
    tokens.copy_from(before);
    for (std::size_t i = 0; i < kShown.size(); ++i) {
      const auto row = static_cast<Index>(i);
      const bool same = distance(logits.rows(row, row + 1), others.rows(row, row + 1)) == 0;
      if (kShown[i] == Shown::both) hidden += same ? 1 : 0, ++texts;
      if (kShown[i] == Shown::text) CHECK(!same);
    }
  }
  CHECK(static_cast<double>(hidden) / texts == Approx(0.3).margin(0.05));
}

TEST_CASE("images and texts may have half of the experts each", "[fusion]") {
  const ProcessGrid grid = grid_of(0);
  for (const char* fusion : {"joint", "cross"})
    for (const char* router : {"linear", "attention"}) {
      CAPTURE(fusion, router);
      Recipe recipe = fusion_recipe(fusion);
      recipe.moe.router = router, recipe.moe.modality_experts = "separate", recipe.moe.router_noise = 0.5;
      FusionScene scene(recipe, grid);
      scene.forward();
      const Tensor chosen = scene.model.moe_layers().front().second->chosen_experts(scene.tape);
      std::set<std::int32_t> images, texts;
      for (std::size_t s = 0; s < kShown.size(); ++s) {
        const auto& [offsets, text_offsets] = std::tie(scene.batch.offsets, scene.batch.text_offsets);
        const std::int32_t text = offsets[s + 1] - (text_offsets[s + 1] - text_offsets[s]);
        for (std::int32_t row = offsets[s]; row < offsets[s + 1]; ++row)
          for (const std::int32_t expert : chosen.rows(row, row + 1).span<std::int32_t>())
            (row < text ? images : texts).insert(expert);
      }
      CHECK(images == std::set{0, 1});
      CHECK(texts == std::set{2, 3});
    }
}

TEST_CASE("fusion: the same losses on any number of ranks", "[fusion]") {
  const ProcessGrid alone = grid_of(0), all = grid_of(test_world().size());
  const auto ranks = static_cast<std::size_t>(test_world().size()),
             rank = static_cast<std::size_t>(test_world().rank());
  const std::size_t first = rank * kShown.size() / ranks, last = (rank + 1) * kShown.size() / ranks;
  for (const char* fusion : {"joint", "cross", "late"}) {
    Recipe recipe = fusion_recipe(fusion);
    recipe.model.dropout = recipe.model.embedding_dropout = recipe.model.text_dropout = 0.2;
    for (const char* router : {"linear", "attention"}) {
      CAPTURE(fusion, router);
      recipe.moe.router = router, recipe.moe.router_noise = 0.5;
      FusionScene whole(recipe, alone), part(recipe, all);
      whole.forward(), part.forward(first, last);  // plans memory
      whole.training = part.training = true;
      const Tensor expected = whole.forward().losses, losses = part.forward(first, last).losses;
      CHECK(distance(losses, expected.rows(static_cast<Index>(first), static_cast<Index>(last))) < 1e-12);
    }
  }
}

}  // namespace
}  // namespace conclave

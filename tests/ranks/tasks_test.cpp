// Tasks other than classification: their losses agree with the formulas in their headers.
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "core/random.h"
#include "recipes/models/model.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

constexpr Index kTaskVocabulary = 20, kTaskClasses = 3, kTaskSide = 8, kTaskChannels = 3;
constexpr std::int32_t kTaskUnknown = 1, kTaskEnd = 2;

Recipe tasks_recipe(double classify, double caption, double generate) {
  Recipe recipe;
  recipe.data.source = "emoji";
  recipe.tasks = {classify, caption, generate};
  recipe.image.stem = 8, recipe.image.blocks = {"k3 x2 c8 s2 se relu"}, recipe.image.tokens = "grid";
  recipe.generate.patch = 4, recipe.generate.text_dropout = 0;
  recipe.model.hidden = 8, recipe.model.heads = 2, recipe.model.layers = 2, recipe.model.ffn = 12;
  recipe.model.dropout = recipe.model.embedding_dropout = 0;
  recipe.moe.experts = 4, recipe.moe.balancer = "none";
  recipe.train.label_smoothing = 0;
  return recipe;
}

struct TaskScene {
  explicit TaskScene(const Recipe& recipe, Index image_tokens)
      : grid(grid_of(0)),
        model(recipe,
              {.vocabulary = kTaskVocabulary,
               .max_length = 16,
               .classes = kTaskClasses,
               .unknown_token = kTaskUnknown,
               .end_token = kTaskEnd,
               .image = {kTaskSide, kTaskSide, kTaskChannels}},
              grid),
        parameters(model, DType::f32, 3) {
    for (std::int32_t text = 0; text < 3; ++text) {
      std::vector<std::int32_t> tokens(static_cast<std::size_t>(2 + text));
      std::iota(tokens.begin(), tokens.end(), 3 + text);
      const auto pixels =
          batch.add(tokens, text % kTaskClasses, image_tokens, kTaskSide * kTaskSide * kTaskChannels);
      for (std::size_t i = 0; i < pixels.size(); ++i)
        pixels[i] = static_cast<std::uint8_t>((i * 37 + static_cast<std::size_t>(text) * 11) % 256);
    }
    batch.global_tokens = batch.local_tokens();
    batch.global_sequences = batch.global_images = batch.local_sequences();
  }
  TaskOutput run(Task& task, bool training) {
    arena.reset();
    tape.emplace(arena, training);
    ForwardContext context{.training = training,
                           .stream = {.seed = 5, .step = 1, .tensor = 0},
                           .global_tokens = batch.global_tokens,
                           .global_sequences = batch.global_sequences,
                           .global_images = batch.global_images};
    return task(*tape, context, model_input(batch));
  }

  ProcessGrid grid;
  Model model;
  ParameterSet parameters;
  Batch batch;
  Arena arena{"test"};
  std::optional<Tape> tape;
};

void set(const Model& model, const std::string& name, float value) {
  for (const auto& [of, parameter] : model.named_parameters())
    if (of == name) return parameter->value.fill(value);
  FAIL("no parameter " << name);
}

TEST_CASE("a model has the tasks with a weight in its recipe and only their parameters", "[tasks]") {
  TaskScene all(tasks_recipe(1, 2, 3), 16), one(tasks_recipe(0, 1, 0), 16);
  REQUIRE(all.model.tasks().size() == 3);
  CHECK(all.model.tasks()[0] == all.model.classifier());
  CHECK(all.model.tasks()[1] == all.model.captioner());
  CHECK(all.model.tasks()[2] == all.model.generator());
  REQUIRE(one.model.tasks().size() == 1);
  CHECK(one.model.classifier() == nullptr);
  CHECK(one.model.generator() == nullptr);
  for (const auto& [name, parameter] : one.model.named_parameters()) {
    CHECK_FALSE(name.starts_with("generate."));
    CHECK_FALSE(name.starts_with("head."));
  }
  for (Task* task : all.model.tasks()) {  // a task has no more parameters than the model
    Index parameters = 0;
    for (const Cost& cost : task->costs(5)) parameters += cost.parameters;
    CHECK(parameters <= all.model.parameter_count());
  }
}

TEST_CASE("a routing cache has room for examples of an image and a text", "[tasks]") {
  Recipe recipe = tasks_recipe(1, 1, 1);
  recipe.moe.router = "attention_token", recipe.moe.router_heads = 2, recipe.moe.route_cache_mib = 1;
  TaskScene scene(recipe, 16);  // images have 16 rows; texts have 2 to 4 tokens of at most 16
  for (Task* task :
       {static_cast<Task*>(scene.model.classifier()), static_cast<Task*>(scene.model.captioner())}) {
    const Tensor first = scene.run(*task, false).losses.clone();
    CHECK(same_bits(scene.run(*task, false).losses, first));
  }
  Recipe drawn = recipe;
  drawn.tasks = {0, 0, 1}, drawn.generate.patch = 2;  // images have 16 rows here, too
  TaskScene drawing(drawn, 16);
  CHECK_NOTHROW(drawing.run(*drawing.model.generator(), false));
}

TEST_CASE("a caption has a loss for each token and for its end, from what comes before", "[tasks]") {
  TaskScene scene(tasks_recipe(0, 1, 0), 16);
  Captioner& captioner = *scene.model.captioner();
  REQUIRE(captioner.image_tokens() == 16);  // a grid of 4 x 4
  const TaskOutput before = scene.run(captioner, false);
  CHECK(before.terms().empty());
  REQUIRE(before.losses.shape() == Shape{3 + 4 + 5 - 3 + 3});  // 2 + 3 + 4 tokens and 3 end tokens
  const std::vector<float> losses(before.losses.span<float>().begin(), before.losses.span<float>().end());
  const float mean = std::accumulate(losses.begin(), losses.begin() + 3, 0.0F) / 3;
  CHECK(before.sequence_losses.data<float>()[0] == Approx(mean));

  // Changing the last token of the second text changes only the losses of that token and of the end after it.
  scene.batch.tokens[4] = 17;
  const TaskOutput after = scene.run(captioner, false);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    CAPTURE(i);
    if (i == 5 || i == 6)
      CHECK(after.losses.data<float>()[i] != losses[i]);
    else
      CHECK(after.losses.data<float>()[i] == losses[i]);
  }
  // Changing an image changes all losses of its own text and no others.
  scene.batch.images[0] = static_cast<std::uint8_t>(255 - scene.batch.images[0]);
  const std::vector<float> second(after.losses.span<float>().begin(), after.losses.span<float>().end());
  const TaskOutput shown = scene.run(captioner, false);
  for (std::size_t i = 0; i < losses.size(); ++i)
    CHECK((shown.losses.data<float>()[i] != second[i]) == (i < 3));

  const TaskOutput training = scene.run(captioner, true);
  REQUIRE(training.terms().size() == 1);
  CHECK(training.terms()[0].weight == Approx(1.0 / static_cast<double>(losses.size())));

  scene.batch.image_sequences.pop_back();
  scene.batch.images.resize(2 * kTaskSide * kTaskSide * kTaskChannels);
  CHECK_THROWS_WITH(scene.run(captioner, false), "caption: 1 of 3 examples have no image");
}

TEST_CASE("a caption's correct flags compare predictions with the next tokens", "[tasks]") {
  TaskScene scene(tasks_recipe(0, 1, 0), 16);
  set(scene.model, "caption.bias", -20);  // with the next lines, every prediction is the end token
  for (const auto& [name, parameter] : scene.model.named_parameters())
    if (name == "caption.bias") parameter->value.data<float>()[kTaskEnd] = 20;
  const TaskOutput output = scene.run(*scene.model.captioner(), false);
  const auto correct = output.correct.span<std::uint8_t>();
  const std::vector<std::uint8_t> ends{0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1};
  CHECK(std::vector<std::uint8_t>(correct.begin(), correct.end()) == ends);
}

TEST_CASE("images are cut into patches, row by row, and joined again", "[tasks]") {
  const Patches patches{{4, 6, 2}, 2};
  REQUIRE(patches.count() == 6);
  REQUIRE(patches.size() == 8);
  const Tensor pixels = Tensor::zeros({2, 48}, DType::u8), cut = Tensor::zeros({12, 8}, DType::f32),
               again = Tensor::zeros({2, 48}, DType::u8);
  for (Index i = 0; i < 96; ++i) pixels.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 2);
  patches.cut(pixels, cut);
  // The second patch of the first image begins at x = 2, y = 0; its second row at y = 1.
  const float* second = cut.data<float>() + 8;
  CHECK(second[0] == Approx(2 * 4 / 127.5 - 1));
  CHECK(second[3] == Approx(2 * 7 / 127.5 - 1));
  CHECK(second[4] == Approx(2 * (12 + 4) / 127.5 - 1));
  CHECK(cut.data<float>()[3 * 8] == Approx(2 * 24 / 127.5 - 1));  // the fourth is below the first
  patches.join(cut, again);
  for (Index i = 0; i < 96; ++i) CHECK(again.data<std::uint8_t>()[i] == pixels.data<std::uint8_t>()[i]);
  cut.data<float>()[0] = 1.5F, cut.data<float>()[1] = -7;
  patches.join(cut, again);
  CHECK(again.data<std::uint8_t>()[0] == 255);
  CHECK(again.data<std::uint8_t>()[1] == 0);
}

TEST_CASE("a generator that predicts zero has the mean square of image minus noise", "[tasks]") {
  TaskScene scene(tasks_recipe(0, 0, 1), 4);
  ImageGenerator& generator = *scene.model.generator();
  REQUIRE(generator.image_tokens() == 4);
  set(scene.model, "generate.patch_out.weight", 0);
  const TaskOutput output = scene.run(generator, true);
  REQUIRE(output.losses.shape() == Shape{3});
  REQUIRE(output.terms().size() == 1);
  CHECK(output.terms()[0].weight == Approx(1.0 / 3));
  const RandomStream noise{.seed = 5, .step = 1, .tensor = 3};  // after the streams of hidden texts and times
  const Tensor cut = Tensor::zeros({12, 48}, DType::f32);
  generator.patches().cut(model_input(scene.batch).images, cut);
  for (Index image = 0; image < 3; ++image) {
    double sum = 0;
    for (Index i = image * 192; i < (image + 1) * 192; ++i)
      sum += std::pow(cut.data<float>()[i] - noise.normal(static_cast<std::uint64_t>(i)), 2);
    CHECK(output.losses.data<float>()[image] == Approx(sum / 192).epsilon(1e-4));
  }
  CHECK(scene.run(generator, false).losses.shape() == Shape{3});
}

TEST_CASE("the prediction of a generator depends on the text, the time and the patches", "[tasks]") {
  TaskScene scene(tasks_recipe(0, 0, 1), 4);
  ImageGenerator& generator = *scene.model.generator();
  const Tensor times = Tensor::of<float>({3}, {0.1F, 0.5F, 0.9F}),
               noisy = random_values({12, 48}, 7, DType::f32);
  const auto first_of = [&](const Tensor& at) {
    scene.arena.reset();
    Tape tape(scene.arena, false);
    ForwardContext context{.training = false};
    const Tensor y = generator.velocity(tape, context, model_input(scene.batch), noisy, at);
    return std::vector<float>(y.span<float>().begin(), y.span<float>().end());
  };
  const std::vector<float> before = first_of(times);
  CHECK(first_of(times) == before);
  const auto changes_only = [&](const std::vector<float>& now, Index image) {
    for (Index i = 0; i < 3; ++i)
      CHECK(std::equal(now.begin() + i * 192, now.begin() + (i + 1) * 192, before.begin() + i * 192) ==
            (i != image));
  };
  scene.batch.tokens[0] = 19;  // a token of the first text
  changes_only(first_of(times), 0);
  scene.batch.tokens[0] = 3;
  changes_only(first_of(Tensor::of<float>({3}, {0.1F, 0.5F, 0.8F})), 2);
  noisy.data<float>()[200] += 1;
  changes_only(first_of(times), 1);
}

TEST_CASE("a patch that does not divide the images is an error", "[tasks]") {
  Recipe recipe = tasks_recipe(0, 0, 1);
  recipe.generate.patch = 3;
  CHECK_THROWS_WITH(TaskScene(recipe, 4), "generate.patch = 3 does not divide images of 8 x 8 pixels");
}

}  // namespace
}  // namespace conclave

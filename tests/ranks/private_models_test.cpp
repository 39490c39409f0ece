// Whole models: per-example norms and the sum of clipped gradients equal those of one plain backward pass per
// example, on any number of ranks and wherever the experts of an example's tokens are.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "recipes/models/model.h"
#include "recipes/training/private_training.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

constexpr Index kPrivateVocabulary = 30, kPrivateClasses = 5, kPrivateSide = 8, kExamples = 7;

Recipe text_recipe() {
  Recipe recipe;
  recipe.privacy.unit = "record";
  recipe.model.hidden = 8, recipe.model.embedding = 6, recipe.model.heads = 2, recipe.model.ffn = 12;
  recipe.model.layers = 2, recipe.model.dropout = 0.2, recipe.model.embedding_dropout = 0.1;
  recipe.model.token_dropout = 0.2;
  recipe.moe.experts = 4, recipe.moe.top_k = 2, recipe.moe.balancer = "none";
  recipe.train.label_smoothing = 0.1;
  return recipe;
}

Recipe image_recipe() {
  Recipe recipe = text_recipe();
  recipe.data.source = "fashion_mnist";
  recipe.model.token_dropout = 0, recipe.model.embedding = 0;
  recipe.image.stem = 8;
  recipe.image.blocks = {"k3 x2 c16 s2 se relu", "k3 x2 c16 s1 se hs", "k5 x1 c24 s2 hs"};
  return recipe;
}

std::vector<std::int32_t> text_of(std::int32_t example) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(2 + 3 * example % 7));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = (7 * example + 3 * static_cast<std::int32_t>(i * i)) % kPrivateVocabulary;
  return tokens;
}

// Examples [first, last), as one rank's share of the batch of all examples.
Batch batch_of(const Recipe& recipe, Index image_tokens, std::int32_t first, std::int32_t last) {
  Batch batch;
  const bool texts = recipe.data.has_texts(), images = recipe.data.has_images();
  for (std::int32_t example = 0; example < kExamples; ++example) {
    const auto text = texts ? text_of(example) : std::vector<std::int32_t>();
    const Index rows = static_cast<Index>(text.size()) + image_tokens;
    batch.global_tokens += rows;
    ++batch.global_sequences;
    if (example < first) batch.first_token += rows, ++batch.first_sequence;
    if (example < first || example >= last) continue;
    const auto pixels =
        batch.add(text, example % kPrivateClasses, image_tokens, images ? kPrivateSide * kPrivateSide : 0);
    for (std::size_t i = 0; i < pixels.size(); ++i)
      pixels[i] = static_cast<std::uint8_t>((i * 37 + static_cast<std::size_t>(example) * 91) % 256);
    batch.in_domain.push_back(0);
  }
  batch.global_images = images ? kExamples : 0;
  return batch;
}

struct PrivateScene {
  PrivateScene(const Recipe& recipe, const ProcessGrid& grid)
      : recipe(recipe),
        model(recipe,
              {.vocabulary = recipe.data.has_texts() ? kPrivateVocabulary : 0,
               .max_length = 16,
               .classes = kPrivateClasses,
               .unknown_token = 1,
               .image = {kPrivateSide, kPrivateSide, 1}},
              grid),
        parameters(model, DType::f64, 3),
        reducer(parameters, grid, 1000) {}

  // Forward and backward pass of examples [first, last). `tells_apart`: clips per-example gradients to
  // `bound` and sums over the ranks; otherwise the plain gradients are added to the parameters.
  void pass(std::int32_t first, std::int32_t last, bool tells_apart, double bound, Communicator& world,
            bool planning = false) {
    pass(batch_of(recipe, model.classifier()->image_tokens(), first, last), tells_apart, planning,
         [&](ExampleGradients& apart) {
           world.all_reduce(Tensor::borrow(apart.squares().data(), {kExamples}, DType::f64));
           squares.assign(apart.squares().begin(), apart.squares().end());
           std::vector<double> factors(kExamples);
           clip_factors(squares, bound, factors);
           apart.add_clipped(factors);
         });
    if (tells_apart) reduce();
  }
  void pass(const Batch& batch, bool tells_apart, bool planning,
            const std::function<void(ExampleGradients&)>& clip) {
    arena.reset();
    Tape tape(arena);
    if (!planning) tape.stop_planning();
    ExampleGradients apart(arena, batch.global_sequences, batch.first_sequence);
    if (tells_apart) tape.collect_example_gradients(apart);
    ForwardContext context{.stream = {.seed = 5, .step = 1, .tensor = 0},
                           .first_token = batch.first_token,
                           .first_sequence = batch.first_sequence,
                           .global_tokens = batch.global_tokens,
                           .global_sequences = batch.global_sequences,
                           .global_images = batch.global_images};
    const TaskOutput output = (*model.classifier())(tape, context, model_input(batch));
    const Tensor seed = tape.empty(output.losses.shape(), output.losses.dtype());
    seed.fill(1);
    tape.backward(output.losses, seed);
    if (tells_apart) clip(apart);
  }
  void reduce() {
    reducer.arm();
    reducer.finish();
  }
  std::vector<Tensor> gradients() const {
    std::vector<Tensor> all;
    for (const Parameter* parameter : parameters.parameters())
      all.push_back(parameter->slot.gradient.clone());
    return all;
  }

  Recipe recipe;
  Model model;
  ParameterSet parameters;
  GradientReducer reducer;
  Arena arena{"test"};
  std::vector<double> squares;
};

// The distance of a gradient from the gradient `all`; of a sharded parameter, from this rank's rows of `all`.
double distance_from(const Parameter& parameter, const Tensor& all) {
  if (!parameter.sharded) return distance(parameter.slot.gradient, all);
  return distance(parameter.slot.gradient,
                  all.rows(parameter.first_row, parameter.first_row + parameter.shape[0]).clone());
}

void check_private(const Recipe& recipe) {
  // One example at a time, on this rank alone.
  const ProcessGrid alone = grid_of(0);
  PrivateScene single(recipe, alone);
  std::vector<double> squares(kExamples);
  std::vector<std::vector<Tensor>> gradients;
  for (std::int32_t example = 0; example < kExamples; ++example) {
    single.parameters.zero_gradients();
    single.pass(example, example + 1, false, 0, alone.world());
    gradients.push_back(single.gradients());
    for (const Tensor& gradient : gradients.back())
      for (const double value : gradient.span<double>())
        squares[static_cast<std::size_t>(example)] += value * value;
  }
  const double bound = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0) / kExamples);
  std::vector<double> factors(kExamples);
  clip_factors(squares, bound, factors);
  REQUIRE(std::ranges::count(factors, 1.0) > 0);
  REQUIRE(std::ranges::count(factors, 1.0) < kExamples);
  std::vector<Tensor> sum = gradients.front();
  for (std::size_t p = 0; p < sum.size(); ++p) {
    sum[p] = Tensor::zeros(sum[p].shape(), DType::f64);
    for (std::size_t i = 0; i < gradients.size(); ++i)
      for (Index j = 0; j < sum[p].numel(); ++j)
        sum[p].data<double>()[j] += factors[i] * gradients[i][p].data<double>()[j];
  }

  for (const int expert_parallel : grid_shapes()) {
    CAPTURE(expert_parallel);
    const ProcessGrid grid = grid_of(expert_parallel);
    PrivateScene scene(recipe, grid);
    scene.pass(0, kExamples, true, bound, grid.world(), true);  // plans memory for the largest share
    scene.parameters.zero_gradients();
    // The last rank has the most examples; with four ranks, the first has none.
    const int rank = grid.world().rank(), ranks = grid.world().size();
    const auto begin = [&](int of) {
      return static_cast<std::int32_t>(kExamples * of * of / (ranks * ranks));
    };
    scene.pass(begin(rank), begin(rank + 1), true, bound, grid.world());
    for (std::size_t i = 0; i < squares.size(); ++i) {
      CAPTURE(i);
      CHECK(scene.squares[i] == Approx(squares[i]).epsilon(1e-9));
    }
    for (std::size_t p = 0; p < sum.size(); ++p) {
      const Parameter& parameter = *scene.parameters.parameters()[p];
      CAPTURE(parameter.name);
      CHECK(distance_from(parameter, sum[p]) < 1e-10);
    }
  }
}

TEST_CASE("texts: each example's gradient is clipped as if it were alone, on any ranks", "[private_models]") {
  check_private(text_recipe());
  Recipe recipe = text_recipe();
  recipe.moe.router = "attention", recipe.moe.shared_experts = 1, recipe.moe.expert = "gated";
  check_private(recipe);
  recipe.moe.router = "attention_token", recipe.moe.expert = "3 feed_forward, 1 gated";
  check_private(recipe);
}

TEST_CASE("images: each example's gradient is clipped as if it were alone, on any ranks",
          "[private_models]") {
  Recipe recipe = image_recipe();
  check_private(recipe);
  recipe.image.tokens = "grid", recipe.image.depthwise = false;
  check_private(recipe);
}

TEST_CASE("images with texts: each example's gradient is clipped as if it were alone", "[private_models]") {
  Recipe recipe = image_recipe();
  recipe.data.source = "emoji";
  check_private(recipe);
}

// The sum of clipped per-client gradients to which noise would be added. Text i belongs to clients[i]; -1:
// left out. `wrong`: a token whose embedding becomes infinite, or -1: none.
std::vector<Tensor> sum_of(const std::vector<std::int32_t>& clients, double bound, const ProcessGrid& grid,
                           std::int32_t wrong = -1) {
  Recipe recipe = text_recipe();
  recipe.model.dropout = recipe.model.embedding_dropout = recipe.model.token_dropout = 0;
  recipe.privacy = {.unit = "client", .clip_norm = bound, .noise_multiplier = 1, .delta = 1e-3, .rate = 1};
  TokenizedSplit split;
  for (std::size_t i = 0; i < clients.size(); ++i) {
    if (clients[i] < 0) continue;
    const auto text = text_of(static_cast<std::int32_t>(i));
    split.tokens.insert(split.tokens.end(), text.begin(), text.end());
    split.offsets.push_back(static_cast<std::int64_t>(split.tokens.size()));
    split.labels.push_back(static_cast<std::int32_t>(i) % kPrivateClasses);
    split.clients.push_back(clients[i]);
  }
  PrivateScene scene(recipe, grid);
  if (wrong >= 0) {
    const auto table = std::ranges::find(scene.parameters.parameters(), kPrivateVocabulary,
                                         [](const Parameter* parameter) { return parameter->shape[0]; });
    (*table)->value.rows(wrong, wrong + 1).fill(HUGE_VAL);
  }
  SystemRandom random;
  PrivateTraining privacy(recipe.privacy, split, 1, grid, random);
  const DynamicBatcher batcher(split,
                               {.tokens = 24 * grid.world().size(),  // so that there are several batches
                                .rank = grid.world().rank(),
                                .ranks = grid.world().size()});
  scene.parameters.zero_gradients();
  for (const bool planning : {true, false})
    privacy.for_batches(batcher, 0, [&](const Batch& batch) {
      scene.pass(batch, true, planning, [&](ExampleGradients& apart) { privacy.add_clipped(apart); });
      if (planning) scene.parameters.zero_gradients();
    });
  scene.reduce();
  return scene.gradients();
}

TEST_CASE("a client changes the sum by at most the bound, however many texts it has", "[private_models]") {
  for (const int expert_parallel : grid_shapes()) {
    CAPTURE(expert_parallel);
    const ProcessGrid grid = grid_of(expert_parallel);
    const std::vector<std::int32_t> all{0, 1, 0, 0, 2, 0, 1};
    for (const double bound : {1e-3, 1e3}) {  // every gradient exceeds the first, none the second
      const auto whole = sum_of(all, bound, grid);
      for (const std::int32_t gone : {0, 1, 2}) {
        std::vector<std::int32_t> rest = all;
        std::ranges::replace(rest, gone, -1);
        const auto without = sum_of(rest, bound, grid);
        double square = 0;
        for (std::size_t p = 0; p < whole.size(); ++p)
          for (Index j = 0; j < whole[p].numel(); ++j)
            square += std::pow(whole[p].data<double>()[j] - without[p].data<double>()[j], 2);
        CAPTURE(bound, gone);
        CHECK(std::sqrt(square) > 0);
        CHECK(std::sqrt(square) < bound * (1 + 1e-9));
      }
    }
  }
}

TEST_CASE("examples whose numbers are not finite add nothing, and change no others", "[private_models]") {
  const std::int32_t wrong = text_of(2)[0];
  std::vector<std::int32_t> all(kExamples), rest;
  std::iota(all.begin(), all.end(), 0);
  for (const std::int32_t i : all) rest.push_back(std::ranges::count(text_of(i), wrong) > 0 ? -1 : i);
  REQUIRE(std::ranges::count(rest, -1) < kExamples - 1);
  for (const int expert_parallel : grid_shapes()) {
    CAPTURE(expert_parallel);
    const ProcessGrid grid = grid_of(expert_parallel);
    const auto with = sum_of(all, 1e3, grid, wrong), without = sum_of(rest, 1e3, grid);
    for (std::size_t p = 0; p < with.size(); ++p) CHECK(distance(with[p], without[p]) < 1e-12);
  }
}

}  // namespace
}  // namespace conclave

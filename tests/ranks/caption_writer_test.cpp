// Captions that are written token by token are the same as those of whole forward passes.
#include "recipes/inference/caption_writer.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "core/random.h"
#include "recipes/models/model.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

constexpr Index kCaptionVocabulary = 23, kMaxLength = 7, kImages = 3, kCaptionSide = 5;
constexpr std::int32_t kCaptionEnd = 2;

Recipe caption_recipe() {
  Recipe recipe;
  recipe.tasks = {.classify = 0, .caption = 1};
  recipe.image.stem = 8, recipe.image.blocks = {"k3 x2 c8 s2"}, recipe.image.tokens = "grid";
  recipe.model.hidden = 8, recipe.model.heads = 2, recipe.model.layers = 3, recipe.model.ffn = 12;
  recipe.moe.experts = 4, recipe.moe.every = 2, recipe.moe.balancer = "none";
  return recipe;
}

struct CaptionScene {
  explicit CaptionScene(const Recipe& recipe, const ProcessGrid& grid, DType dtype = DType::f32)
      : model(recipe,
              {.vocabulary = kCaptionVocabulary,
               .max_length = kMaxLength,
               .classes = 2,
               .end_token = kCaptionEnd,
               .image = {kCaptionSide, kCaptionSide, 3}},
              grid),
        parameters(model, dtype, 5) {
    // Large values, so that the probabilities are far from uniform and the texts differ.
    for (const Parameter* parameter : parameters.parameters())
      if (parameter->name == "token_embedding.weight") {
        const Tensor values = random_values(parameter->shape, 9, dtype);
        parameter->value.copy_from(values);
      }
    const RandomStream stream{.seed = 3};
    for (Index i = 0; i < pixels.numel(); ++i)
      pixels.data<std::uint8_t>()[i] =
          static_cast<std::uint8_t>(stream.below(256, static_cast<std::uint64_t>(i)));
  }

  Captioner& captioner() { return *model.captioner(); }
  CaptionWriter writer() {
    std::vector<std::uint8_t> may_write(kCaptionVocabulary, 1);
    may_write[0] = may_write[1] = 0;
    return CaptionWriter(captioner(), may_write, kMaxLength);
  }
  // log P(text and end token | image), by one forward pass as in training.
  double log_probability(Index image, const std::vector<std::int32_t>& text) {
    Batch batch;
    const auto one = pixels.rows(image, image + 1).span<std::uint8_t>();
    std::ranges::copy(one, batch.add(text, 0, captioner().image_tokens(), one.size()).begin());
    Arena arena("test");
    Tape tape(arena, false);
    ForwardContext context{.training = false};
    double sum = 0;
    const Tensor losses = captioner()(tape, context, model_input(batch)).losses;
    for (Index i = 0; i < losses.numel(); ++i)
      sum -= losses.dtype() == DType::f64 ? losses.data<double>()[i] : losses.data<float>()[i];
    return sum;
  }

  Model model;
  ParameterSet parameters;
  Tensor pixels = Tensor::empty({kImages, kCaptionSide* kCaptionSide * 3}, DType::u8);
};

double log_softmax(const Tensor& logits, Index row, std::int32_t token) {
  const double* scores = logits.data<double>() + row * logits.size(1);
  double sum = 0;
  for (Index i = 0; i < logits.size(1); ++i) sum += std::exp(scores[i] - scores[token]);
  return -std::log(sum);
}

TEST_CASE("scores token by token equal those of a whole pass, for branching texts", "[caption_writer]") {
  for (const int expert_parallel : grid_shapes())
    for (const bool shared : {false, true}) {
      const ProcessGrid grid = grid_of(expert_parallel);
      Recipe recipe = caption_recipe();
      recipe.model.share_layers = shared;
      CaptionScene scene(recipe, grid, DType::f64);
      Arena arena("test");
      Tape tape(arena, false);
      ForwardContext context{.training = false};
      KeyValueCache cache = scene.captioner().cache(arena, 4, kMaxLength);
      struct Text {
        Index image;
        std::vector<std::int32_t> tokens;
        double log_probability;
      };
      std::vector<Text> texts;
      for (Index image = 0; image < kImages; ++image) texts.push_back({image, {}, 0});
      Tensor logits = scene.captioner().first(tape, context, scene.pixels, cache);
      const std::vector<std::vector<std::int32_t>> parents{{2, 0, 0, 1}, {3, 1, 1}, {2, 0}, {0, 1}};
      for (std::size_t place = 0; place < parents.size(); ++place) {
        std::vector<Text> next;
        std::vector<std::int32_t> tokens;
        for (const std::int32_t parent : parents[place]) {
          Text text = texts[static_cast<std::size_t>(parent)];
          tokens.push_back(static_cast<std::int32_t>(3 + (7 * place + 5 * tokens.size()) % 20));
          text.tokens.push_back(tokens.back());
          text.log_probability += log_softmax(logits, parent, tokens.back());
          next.push_back(text);
        }
        texts = next;
        logits =
            scene.captioner().next(tape, context, tokens, parents[place], static_cast<Index>(place), cache);
        for (std::size_t i = 0; i < texts.size(); ++i) {
          const double with_end =
              texts[i].log_probability + log_softmax(logits, static_cast<Index>(i), kCaptionEnd);
          CHECK(with_end == Approx(scene.log_probability(texts[i].image, texts[i].tokens)).epsilon(1e-10));
        }
      }
    }
}

TEST_CASE("a beam finds texts at least as probable as greedy decoding", "[caption_writer]") {
  const ProcessGrid grid = grid_of(0);
  CaptionScene scene(caption_recipe(), grid);
  CaptionWriter writer = scene.writer();
  const auto greedy = writer.write(scene.pixels, {.beam = 1});
  const auto beam = writer.write(scene.pixels, {.beam = 5, .length_penalty = 0});
  REQUIRE(greedy.size() == kImages);
  bool better = false;
  for (std::size_t i = 0; i < kImages; ++i) {
    CHECK(beam[i].log_probability >= greedy[i].log_probability - 1e-9);
    better = better || beam[i].log_probability > greedy[i].log_probability + 1e-3;
    CHECK_FALSE(greedy[i].tokens.empty());
    CHECK(greedy[i].tokens.size() <= kMaxLength);
    CHECK(std::ranges::none_of(beam[i].tokens, [](std::int32_t token) { return token <= kCaptionEnd; }));
  }
  CHECK(better);
  const auto cut = writer.write(scene.pixels, {.beam = 1, .max_tokens = 1});
  for (std::size_t i = 0; i < kImages; ++i) {
    REQUIRE(cut[i].tokens.size() == 1);
    CHECK(cut[i].tokens[0] == greedy[i].tokens[0]);
  }
}

TEST_CASE("a beam that holds all texts finds the most probable one", "[caption_writer]") {
  const ProcessGrid grid = grid_of(0);
  CaptionScene scene(caption_recipe(), grid);
  std::vector<std::uint8_t> may_write(kCaptionVocabulary, 0);
  may_write[5] = may_write[9] = may_write[11] = 1;
  CaptionWriter writer(scene.captioner(), may_write, kMaxLength);
  const auto all = writer.write(scene.pixels, {.beam = 64, .length_penalty = 0, .max_tokens = 3});
  const auto some = writer.write(scene.pixels, {.beam = 2, .length_penalty = 0, .max_tokens = 3});
  for (std::size_t i = 0; i < kImages; ++i) CHECK(all[i].log_probability >= some[i].log_probability - 1e-9);
  // With a length penalty that favours long texts, all results have the maximum length.
  const auto longest = writer.write(scene.pixels, {.beam = 64, .length_penalty = 40, .max_tokens = 3});
  for (const WrittenCaption& text : longest) CHECK(text.tokens.size() == 3);
}

TEST_CASE("sampling with a tiny top_p is greedy, and a seed repeats the same texts", "[caption_writer]") {
  const ProcessGrid grid = grid_of(0);
  CaptionScene scene(caption_recipe(), grid);
  CaptionWriter writer = scene.writer();
  const auto tokens = [&](const CaptionOptions& options) {
    std::vector<std::vector<std::int32_t>> texts;
    for (const WrittenCaption& text : writer.write(scene.pixels, options)) texts.push_back(text.tokens);
    return texts;
  };
  CHECK(tokens({.top_p = 1e-9}) == tokens({}));
  CHECK(tokens({.top_p = 1, .temperature = 1e-3}) == tokens({}));
  const auto drawn = tokens({.top_p = 0.95, .temperature = 2, .seed = 4});
  CHECK(drawn == tokens({.top_p = 0.95, .temperature = 2, .seed = 4}));
  CHECK(drawn != tokens({.top_p = 0.95, .temperature = 2, .seed = 5}));
  // The text of an image does not depend on the other images of the batch.
  const auto second = writer.write(scene.pixels.rows(1, 2), {.top_p = 0.95, .temperature = 2, .seed = 4}, 1);
  CHECK(second.at(0).tokens == drawn[1]);
}

TEST_CASE("the probability of a caption is that of the model", "[caption_writer]") {
  const ProcessGrid grid = grid_of(0);
  CaptionScene scene(caption_recipe(), grid);
  CaptionWriter writer(scene.captioner(), std::vector<std::uint8_t>(kCaptionVocabulary, 1), kMaxLength);
  // All tokens are allowed, but not a text without tokens.
  const auto texts = writer.write(scene.pixels, {.beam = 4});
  for (std::size_t i = 0; i < kImages; ++i) {
    const auto image = static_cast<Index>(i);
    if (texts[i].tokens.size() == kMaxLength) continue;  // cut off, without an end token
    const double no_text = std::exp(scene.log_probability(image, {}));
    CHECK(texts[i].log_probability ==
          Approx(scene.log_probability(image, texts[i].tokens) - std::log1p(-no_text)).epsilon(1e-4));
  }
}

TEST_CASE("captions refuse invalid options and models that need whole sequences", "[caption_writer]") {
  const ProcessGrid grid = grid_of(0);
  CaptionScene scene(caption_recipe(), grid);
  CaptionWriter writer = scene.writer();
  const auto message = [&](const CaptionOptions& options, const char* expected) {
    CHECK_THROWS_WITH(writer.write(scene.pixels, options), Contains(expected));
  };
  message({.beam = 0}, "a beam of 0 texts");
  message({.beam = 2, .top_p = 0.5}, "beam and top_p exclude each other");
  message({.top_p = 1.5}, "top_p = 1.5 is not from 0 to 1");
  message({.top_p = 0.5, .temperature = 0}, "a temperature of 0");
  message({.max_tokens = kMaxLength + 1},
          "captions of 8 tokens, but the model was trained on texts of at most 7");
  Arena arena("test");
  for (const char* router : {"attention", "attention_token"}) {
    Recipe recipe = caption_recipe();
    recipe.moe.router = router;
    recipe.moe.router_heads = 2;
    CaptionScene other(recipe, grid);
    CHECK_THROWS_WITH(other.captioner().cache(arena, 1, 1), Contains("layers.1.moe: its router"));
  }
  Recipe recipe = caption_recipe();
  recipe.moe.gate = "expert_choice";
  CaptionScene choosing(recipe, grid);
  CHECK_THROWS_WITH(choosing.captioner().cache(arena, 1, 1), Contains("moe.gate = \"top_k\""));
  recipe = caption_recipe();
  recipe.moe.balance_inference = true;
  CaptionScene balanced(recipe, grid);
  CHECK_THROWS_WITH(balanced.captioner().cache(arena, 1, 1),
                    Contains("leave moe.balance_inference at false"));

  Tape tape(arena, false);
  KeyValueCache cache(arena, 1, 2, 3, 4, DType::f32);
  const std::vector<std::int32_t> two{0, 1}, stranger{2};
  cache.extend(tape, two, 2);
  CHECK_THROWS_WITH(cache.extend(tape, stranger, 1),
                    Contains("continue sequences that are not among the 2 there are"));
  CHECK_THROWS_WITH(cache.extend(tape, two, 2), Contains("there is room for 2 of 3"));
  const Tensor rows = Tensor::zeros({4, 8});
  CHECK_NOTHROW(cache.append(0, rows));
  CHECK_THROWS_WITH(cache.append(0, rows),
                    Contains("layer 0 of 1 is appended, where layer 1 is next in this pass"));
  CHECK_THROWS_WITH(cache.append(1, rows), Contains("layer 1 of 1"));
  Tape recording(arena);
  CHECK_THROWS_WITH(cache.extend(recording, two, 1), Contains("use a tape that does not record"));
}

}  // namespace
}  // namespace conclave

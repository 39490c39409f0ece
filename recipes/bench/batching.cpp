// Compares training steps on WordNet's glosses in batches of texts of similar length with batches of as many
// texts in random order, each padded to the longest of its batch.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "data/dynamic_batcher.h"
#include "recipes/bench/bench.h"
#include "recipes/corpus/corpus.h"
#include "recipes/models/model.h"

namespace conclave::bench {
namespace {

constexpr std::int64_t kBatchTokens = 4096, kBatches = 16;

// A batch of the given texts as one padded rectangle; padding counts as tokens of the text.
Batch padded_batch(const TokenizedSplit& split, std::span<const std::int64_t> texts) {
  std::int64_t longest = 0;
  for (const std::int64_t text : texts) longest = std::max(longest, split.length(text));
  Batch batch;
  std::vector<std::int32_t> padded(static_cast<std::size_t>(longest));
  for (const std::int64_t text : texts) {
    const auto tokens = split.sequence(text);
    std::fill(std::ranges::copy(tokens, padded.begin()).out, padded.end(), 0);
    batch.add(padded, split.labels[static_cast<std::size_t>(text)]);
  }
  batch.global_tokens = batch.local_tokens();
  batch.global_sequences = batch.local_sequences();
  return batch;
}

// The parts of quick.toml that matter here.
Recipe quick() {
  Recipe recipe;
  recipe.data.vocabulary = 8000;
  recipe.data.max_length = 64;
  recipe.model.hidden = 128;
  recipe.model.layers = 2;
  recipe.model.heads = 4;
  recipe.model.ffn = 256;
  recipe.moe.experts = 8;
  recipe.moe.top_k = 2;
  return recipe;
}

// A model of this recipe, trained forward and backward.
class Trainee {
 public:
  Trainee(const Recipe& recipe, const Corpus& corpus, const ProcessGrid& grid)
      : model_(recipe, corpus.sizes(recipe.data), grid), parameters_(model_, DType::f32, 1) {}

  void step(const Batch& batch) {
    parameters_.zero_gradients();
    activations_.reset();
    Tape tape(activations_);
    ForwardContext context{.stream = {.seed = 1, .step = ++steps_, .tensor = 0},
                           .global_tokens = batch.global_tokens,
                           .global_sequences = batch.global_sequences};
    const TaskOutput output = (*model_.classifier())(tape, context, model_input(batch));
    const TaskOutput::Term& term = output.terms().front();
    const Tensor seed = tape.empty(term.losses.shape(), term.losses.dtype());
    seed.fill(term.weight);
    tape.backward(term.losses, seed);
  }
  /// Fixes the memory at the batches seen so far plus a reserve, because dropout changes the routing a little
  /// in every step.
  void end_planning() { activations_.seal(std::size_t{64} << 20); }

 private:
  Model model_;
  ParameterSet parameters_;
  Arena activations_{"activations"};
  std::uint32_t steps_ = 0;
};

}  // namespace

void batching(const ProcessGrid& grid, const std::string& cache_directory, std::int64_t repetitions) {
  const Recipe recipe = quick();
  const Corpus corpus = load_corpus(recipe, grid.world(), cache_directory);
  const TokenizedSplit& split = corpus.tasks.front().train;
  DynamicBatcher batcher(split, {.tokens = kBatchTokens});
  const std::int64_t texts = split.size() / batcher.batches_per_epoch();
  std::vector<std::int64_t> order(static_cast<std::size_t>(split.size()));
  std::iota(order.begin(), order.end(), 0);
  const RandomStream random{.seed = 1};
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i, i)]);

  std::vector<Batch> dynamic(kBatches), fixed;
  double dynamic_tokens = 0, fixed_tokens = 0, rectangles = 0;  // the first two exclude padding
  for (std::int64_t b = 0; b < kBatches; ++b) {
    batcher.fill({0, b}, dynamic[static_cast<std::size_t>(b)]);
    dynamic_tokens += static_cast<double>(dynamic[static_cast<std::size_t>(b)].local_tokens());
    const auto chosen =
        std::span(order).subspan(static_cast<std::size_t>(b * texts), static_cast<std::size_t>(texts));
    fixed.push_back(padded_batch(split, chosen));
    rectangles += static_cast<double>(fixed.back().local_tokens());
    for (const std::int64_t text : chosen) fixed_tokens += static_cast<double>(split.length(text));
  }
  Trainee trainee(recipe, corpus, grid);
  const auto all = [&](const std::vector<Batch>& batches) {
    return [&] {
      for (const Batch& batch : batches) trainee.step(batch);
    };
  };
  for (const auto* batches : {&dynamic, &fixed}) all (*batches)();
  trainee.end_planning();
  const Comparison time = compare(all(dynamic), all(fixed), repetitions);
  print_figure(
      fmt::format("padding, {} texts a batch in any order / batches alike in length", texts),
      fmt::format("{:.1f}% / {:.1f}%", 100 * (1 - fixed_tokens / rectangles), 100 * batcher.padding()), 0.03);
  print_figure("training on WordNet's glosses in these, tokens per second",
               fmt::format("{:.0f} / {:.0f}: x{:.2f}", fixed_tokens / time.reference,
                           dynamic_tokens / time.subject, time.ratio * dynamic_tokens / fixed_tokens),
               1.5);
}

}  // namespace conclave::bench

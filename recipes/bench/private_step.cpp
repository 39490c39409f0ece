// Compares a training step that clips each example's gradient, with and without noise, with a plain step of
// the same model.
#include <fmt/format.h>

#include <numeric>
#include <vector>

#include "autograd/optim/adamw.h"
#include "core/random.h"
#include "federated/privacy/noisy_sum.h"
#include "recipes/bench/bench.h"
#include "recipes/models/model.h"

namespace conclave::bench {
namespace {

// A model of one process, with a batch of generated examples.
class Step {
 public:
  Step(const Recipe& recipe, const ModelSizes& sizes, const Batch& batch, const ProcessGrid& grid, bool apart)
      : model_(recipe, sizes, grid),
        parameters_(model_, DType::f32, 1),
        optimizer_(parameters_, {}),
        batch_(batch),
        apart_(apart) {
    run();
    activations_.seal();
  }

  void run() {
    activations_.reset();
    parameters_.zero_gradients();
    Tape tape(activations_);
    ExampleGradients gradients(activations_, batch_.global_sequences);
    if (apart_) tape.collect_example_gradients(gradients);
    ForwardContext context{.stream = {.seed = 1, .step = 1, .tensor = 0},
                           .global_tokens = batch_.global_tokens,
                           .global_sequences = 1,
                           .global_images = batch_.global_images};
    const TaskOutput output = (*model_.classifier())(tape, context, model_input(batch_));
    const Tensor seed = tape.empty(output.losses.shape(), DType::f32);
    seed.fill(1);
    tape.backward(output.losses, seed);
    if (apart_) {
      factors_.resize(gradients.squares().size());
      clip_factors(gradients.squares(), 1, factors_);
      gradients.add_clipped(factors_);
    }
    optimizer_.update(++step_, 1e-6, 1.0 / static_cast<double>(batch_.global_sequences));
  }

  // A step adds noise once, however many micro-batches it has.
  void noise() {
    const SumNoise noise({1, 1, elements()});
    for (const Parameter* parameter : parameters_.parameters())
      noise.add_to(random_, parameter->slot.gradient.span<float>());
  }

  Index elements() const { return parameters_.elements(); }
  std::size_t activations() const { return activations_.capacity(); }
  std::size_t memory() {
    return activations() + parameters_.values().capacity() + parameters_.gradients().capacity() +
           optimizer_.state().capacity();
  }

 private:
  Model model_;
  ParameterSet parameters_;
  AdamW optimizer_;
  Arena activations_{"activations"};
  Batch batch_;
  bool apart_;
  SystemRandom random_;
  std::vector<double> factors_;
  std::int64_t step_ = 0;
};

void measure(const char* what, const Recipe& recipe, const ModelSizes& sizes, const Batch& batch,
             const ProcessGrid& grid, std::int64_t repetitions) {
  Step apart(recipe, sizes, batch, grid, true), plain(recipe, sizes, batch, grid, false);
  const Comparison times = compare([&] { apart.run(); }, [&] { plain.run(); }, repetitions);
  const auto ratio = [](std::size_t a, std::size_t b) {
    return static_cast<double>(a) / static_cast<double>(b);
  };
  print_figure(fmt::format("{}: a step that clips, {:.1f} ms, over a plain one's {:.1f} ms", what,
                           1e3 * times.subject, 1e3 * times.reference),
               fmt::format("{:.3f}", 1 / times.ratio));
  const Comparison noisy = compare(
      [&] {
        apart.run();
        apart.noise();
      },
      [&] { plain.run(); }, repetitions);
  print_figure(
      fmt::format("{}: the same with noise for {} parameters, {:.1f} ms, over a plain one's {:.1f} ms", what,
                  apart.elements(), 1e3 * noisy.subject, 1e3 * noisy.reference),
      fmt::format("{:.3f}", 1 / noisy.ratio));
  print_figure(fmt::format("{}: memory, {}, over {}", what, format_bytes(apart.memory()),
                           format_bytes(plain.memory())),
               fmt::format("{:.3f}, of activations {:.3f}", ratio(apart.memory(), plain.memory()),
                           ratio(apart.activations(), plain.activations())));
}

Recipe base_recipe() {
  Recipe recipe;
  recipe.privacy.unit = "record";  // both recipes below support it
  recipe.model.ffn = 256;
  recipe.moe.balancer = "none";
  return recipe;
}

}  // namespace

void private_step(const ProcessGrid& grid, std::int64_t repetitions) {
  const RandomStream stream{.seed = 1};
  std::uint64_t drawn = 0;
  {
    // As recipes/fashion_mnist.toml, except for what privacy does not support.
    Recipe recipe = base_recipe();
    recipe.data.source = "fashion_mnist";
    recipe.image.blocks = {"k3 x3 c24 s2 se relu", "k3 x3 c32 s1 se hs", "k3 x3 c32 s1 se hs",
                           "k5 x4 c56 s2 se hs",   "k5 x4 c56 s1 se hs", "k5 x4 c80 s1 se hs"};
    recipe.model.layers = 1;
    recipe.model.embedding_dropout = 0;
    const ModelSizes sizes{.classes = 10, .image = {28, 28, 1}};
    Batch batch;
    for (int i = 0; i < 128; ++i)
      for (std::uint8_t& pixel : batch.add({}, i % 10, 1, 28 * 28))
        pixel = static_cast<std::uint8_t>(256 * stream.uniform(drawn++));
    batch.in_domain.assign(batch.labels.size(), 0);
    batch.global_tokens = batch.global_sequences = batch.global_images = batch.local_sequences();
    measure("fashion_mnist.toml", recipe, sizes, batch, grid, repetitions);
  }
  {
    // As recipes/quick.toml, with the same exception; texts have 8 to 24 tokens.
    Recipe recipe = base_recipe();
    recipe.model.dropout = recipe.model.embedding_dropout = 0.2;
    recipe.model.token_dropout = 0.1;
    const ModelSizes sizes{.vocabulary = 8000, .max_length = 64, .classes = 26, .unknown_token = 1};
    Batch batch;
    std::vector<std::int32_t> text;
    while (batch.local_tokens() + 24 <= 4096) {
      text.resize(8 + stream.below(17, drawn++));
      for (std::int32_t& token : text) token = static_cast<std::int32_t>(stream.below(8000, drawn++));
      batch.add(text, static_cast<std::int32_t>(batch.labels.size() % 26));
    }
    batch.in_domain.assign(batch.labels.size(), 0);
    batch.global_tokens = batch.local_tokens(), batch.global_sequences = batch.local_sequences();
    measure("quick.toml", recipe, sizes, batch, grid, repetitions);
  }
}

}  // namespace conclave::bench

#include "recipes/image_sampler.h"

#include <algorithm>

#include "core/kernels/routing.h"

namespace conclave {
namespace {

constexpr std::size_t kImages = 16;  // per forward pass: more no longer fit the second-level cache

ImageGenerator& generator_of(LoadedModel& model) {
  ImageGenerator* generator = model.model().generator();
  require(generator != nullptr,
          "the model was not trained to generate images; train one with --set tasks.generate=1");
  return *generator;
}

}  // namespace

ImageSampler::ImageSampler(LoadedModel& model, const ProcessGrid& grid)
    : model_(model), generator_(generator_of(model)), activations_("activations", 0, grid.device()) {
  require(grid.world().size() == 1, "generate runs in one process, not in {}", grid.world().size());
}

std::vector<Image> ImageSampler::sample(std::span<const std::string> texts, const SamplerOptions& options,
                                        std::int64_t first) {
  const Patches& patches = generator_.patches();
  const Index size = patches.image.size();
  std::vector<Image> images;
  for (std::size_t done = 0; done < texts.size(); done += kImages) {
    const auto part = texts.subspan(done, std::min(kImages, texts.size() - done));
    const auto count = static_cast<Index>(part.size());
    std::vector<TextExample> examples;
    for (const std::string& text : part) examples.push_back({.text = text});
    const TokenizedSplit split = model_.tokenizer()->encode_split(examples, model_.recipe().data.max_length);
    // Each image twice where it is guided: as its text has it, and behind a hidden text.
    const Index copies = options.guidance == 1 ? 1 : 2;
    Batch batch;
    std::vector<std::int32_t> hidden;
    for (Index copy = 0; copy < copies; ++copy)
      for (Index i = 0; i < count; ++i) {
        hidden.assign(split.sequence(i).size(), generator_.hidden_token());
        batch.add(copy == 0 ? split.sequence(i) : hidden, 0, patches.count(), static_cast<std::size_t>(size));
      }
    const ModelInput input = model_input(batch);
    const auto place = static_cast<Index>(done) + first;
    const std::vector<float> start(static_cast<std::size_t>(count * size));
    std::vector<float> x(start), middle(start), noisy(static_cast<std::size_t>(copies * count * size)),
        times(static_cast<std::size_t>(copies * count));
    kernels::normal_noise({.seed = options.seed}, place * size, 1,
                          Tensor::borrow(x.data(), {count * size}, DType::f32));
    // to = from + step times the velocity at (at, time)
    const auto follow = [&](const std::vector<float>& from, const std::vector<float>& at, double time,
                            double step, std::vector<float>& to) {
      for (Index copy = 0; copy < copies; ++copy) std::ranges::copy(at, noisy.begin() + copy * count * size);
      std::ranges::fill(times, static_cast<float>(time));
      ArenaScope scope(activations_);
      Tape tape(activations_, false);
      tape.stop_planning();
      ForwardContext context{.training = false,
                             .stream = {},
                             .global_tokens = batch.local_tokens(),
                             .global_sequences = copies * count};
      const Tensor velocity = tape.on_host(generator_.velocity(
          tape, context, input,
          Tensor::borrow(noisy.data(), {copies * count * patches.count(), patches.size()}, DType::f32),
          Tensor::borrow(times.data(), {copies * count}, DType::f32)));
      const float *told = velocity.data<float>(), *untold = told + (copies - 1) * count * size;
      const auto guidance = static_cast<float>(options.guidance), dt = static_cast<float>(step);
      for (std::size_t i = 0; i < to.size(); ++i)
        to[i] = from[i] + dt * (untold[i] + guidance * (told[i] - untold[i]));
    };
    const double step = 1.0 / static_cast<double>(options.steps);
    for (std::int64_t s = 0; s < options.steps; ++s) {
      const double time = step * static_cast<double>(s);
      follow(x, x, time, step / 2, middle);
      follow(x, middle, time + step / 2, step, x);
    }
    for (Index i = 0; i < count; ++i) {
      Image& image = images.emplace_back(
          Image{patches.image, std::vector<std::uint8_t>(static_cast<std::size_t>(size))});
      patches.join(Tensor::borrow(x.data() + i * size, {patches.count(), patches.size()}, DType::f32),
                   Tensor::borrow(image.pixels.data(), {1, size}, DType::u8));
    }
  }
  return images;
}

}  // namespace conclave

#include "recipes/inference/image_sampler.h"

#include <algorithm>

#include "core/kernels/routing.h"

namespace conclave {
namespace {

ImageGenerator& generator_of(LoadedModel& model) {
  ImageGenerator* generator = model.model().generator();
  require(generator != nullptr,
          "the model was not trained to generate images; train one with --set tasks.generate=1");
  return *generator;
}

}  // namespace

ImageSampler::ImageSampler(LoadedModel& model, const ProcessGrid& grid)
    : model_(model),
      generator_(generator_of(model)),
      device_(grid.device()),
      activations_(std::in_place, "activations", 0, device_),
      alone_(grid.world().size() == 1) {}

std::vector<Image> ImageSampler::sample(std::span<const std::string> texts, const SamplerOptions& options,
                                        std::int64_t first) {
  require(alone_, "generate runs in one process");
  const auto size = static_cast<std::size_t>(shape().size());
  std::vector<TextExample> examples;
  for (const std::string& text : texts) examples.push_back({.text = text});
  const TokenizedSplit split = model_.tokenizer()->encode_split(examples, model_.recipe().data.max_length);
  std::vector<Drawing> drawings;
  for (Index i = 0; i < split.size(); ++i) drawings.push_back({split.sequence(i), options.seed, first + i});
  std::vector<std::uint8_t> pixels(texts.size() * size);
  for (std::size_t done = 0; done < texts.size(); done += kImages) {
    const std::size_t some = std::min(kImages, texts.size() - done);
    begin(std::span(drawings).subspan(done, some), options,
          std::span(pixels).subspan(done * size, some * size));
    while (step()) {
    }
  }
  std::vector<Image> images;
  for (std::size_t done = 0; done < pixels.size(); done += size)
    images.push_back({shape(), {pixels.data() + done, pixels.data() + done + size}});
  return images;
}

std::size_t ImageSampler::plan(Index tokens) {
  const std::vector<std::int32_t> longest(static_cast<std::size_t>(tokens));
  const std::vector<Drawing> drawings(kImages, {longest});
  std::vector<std::uint8_t> pixels(kImages * static_cast<std::size_t>(shape().size()));
  activations_.emplace("activations", 0, device_);
  planning_ = true;
  begin(drawings, {.steps = 1, .guidance = 2}, pixels);
  step();
  planning_ = false;
  activations_->seal(std::size_t{1} << 16, 0.02);
  return activations_->capacity();
}

void ImageSampler::begin(std::span<const Drawing> drawings, const SamplerOptions& options,
                         std::span<std::uint8_t> pixels) {
  options_ = options, pixels_ = pixels, steps_ = 0;
  const Patches& patches = generator_.patches();
  const Index size = patches.image.size();
  const auto count = static_cast<Index>(drawings.size());
  // With guidance, each image is computed twice: with its text, and with the text hidden.
  const Index copies = options.guidance == 1 ? 1 : 2;
  batch_.clear();
  for (Index copy = 0; copy < copies; ++copy)
    for (const Drawing& drawing : drawings) {
      hidden_.assign(drawing.tokens.size(), generator_.hidden_token());
      batch_.add(copy == 0 ? drawing.tokens : hidden_, 0, patches.count(), static_cast<std::size_t>(size));
    }
  for (std::vector<float>* values : {&x_, &middle_}) values->resize(static_cast<std::size_t>(count * size));
  noisy_.resize(static_cast<std::size_t>(copies * count * size));
  times_.resize(static_cast<std::size_t>(copies * count));
  for (Index i = 0; i < count; ++i) {
    const Drawing& drawing = drawings[static_cast<std::size_t>(i)];
    kernels::normal_noise({.seed = drawing.seed}, drawing.number * size, 1,
                          Tensor::borrow(x_.data() + i * size, {size}, DType::f32));
  }
}

bool ImageSampler::step() {
  const double step = 1.0 / static_cast<double>(options_.steps), time = step * static_cast<double>(steps_);
  follow(x_, time, step / 2, middle_);
  follow(middle_, time + step / 2, step, x_);
  if (++steps_ < options_.steps) return true;
  const Patches& patches = generator_.patches();
  const Index size = patches.image.size();
  for (Index at = 0; at < std::ssize(x_); at += size)
    patches.join(Tensor::borrow(x_.data() + at, {patches.count(), patches.size()}, DType::f32),
                 Tensor::borrow(pixels_.data() + at, {1, size}, DType::u8));
  return false;
}

// to = x + step times the velocity at (at, time)
void ImageSampler::follow(const std::vector<float>& at, double time, double step, std::vector<float>& to) {
  const Patches& patches = generator_.patches();
  const auto all = static_cast<Index>(times_.size());
  for (auto place = noisy_.begin(); place != noisy_.end();) place = std::ranges::copy(at, place).out;
  std::ranges::fill(times_, static_cast<float>(time));
  ArenaScope scope(*activations_);
  Tape tape(*activations_, false);
  if (!planning_) tape.stop_planning();
  ForwardContext context{
      .training = false, .stream = {}, .global_tokens = batch_.local_tokens(), .global_sequences = all};
  const Tensor velocity = tape.on_host(
      generator_.velocity(tape, context, model_input(batch_),
                          Tensor::borrow(noisy_.data(), {all * patches.count(), patches.size()}, DType::f32),
                          Tensor::borrow(times_.data(), {all}, DType::f32)));
  const float *told = velocity.data<float>(), *untold = told + (noisy_.size() - to.size());
  const auto guidance = static_cast<float>(options_.guidance), dt = static_cast<float>(step);
  for (std::size_t i = 0; i < to.size(); ++i)
    to[i] = x_[i] + dt * (untold[i] + guidance * (told[i] - untold[i]));
}

}  // namespace conclave

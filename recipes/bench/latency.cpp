// Latency of classifying one text, and of drawing one image, in f32 and in integers, measured alternately.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "core/random.h"
#include "recipes/bench/bench.h"
#include "recipes/inference/image_sampler.h"
#include "recipes/inference/predictor.h"

namespace conclave::bench {
namespace {

constexpr Index kRequestTokens = 128;
constexpr std::int64_t kTexts = 100, kDrawings = 5;  // per repetition

std::vector<std::string> with_integers(std::vector<std::string> overrides, bool integers) {
  overrides.push_back(fmt::format("quantization.enabled={}", integers));
  overrides.push_back("quantization.start_step=0");
  return overrides;
}

// A model of one process, with a request for each task that is measured and that the model has.
class LatencyServer {
 public:
  LatencyServer(const std::string& checkpoint, std::vector<std::string> overrides, const ProcessGrid& grid,
                bool integers)
      : loaded_(checkpoint, grid, with_integers(std::move(overrides), integers)) {
    const TasksRecipe& tasks = loaded_.recipe().tasks;
    if (tasks.classify > 0 && loaded_.recipe().data.has_texts()) {
      predictor_.emplace(loaded_, grid);
      const std::vector<std::int32_t> tokens =
          random_tokens(std::min<Index>(kRequestTokens, loaded_.recipe().data.max_length));
      predictor_->add(tokens, {}, text_);
      text_.global_tokens = text_.local_tokens();
    }
    if (tasks.generate > 0) {
      sampler_.emplace(loaded_, grid);
      caption_ = random_tokens(2);
      pixels_.resize(static_cast<std::size_t>(sampler_->shape().size()));
    }
    require(predictor_ || sampler_, "bench latency: {} neither classifies texts nor draws images",
            checkpoint);
  }

  bool classifies() const { return predictor_.has_value(); }
  void classify() { predictor_->scores(text_); }
  Index tokens() const { return text_.local_tokens(); }

  bool draws() const { return sampler_.has_value(); }
  void draw() {
    const ImageSampler::Drawing drawing{.tokens = caption_};
    sampler_->begin(std::span(&drawing, 1), options_, pixels_);
    while (sampler_->step()) {
    }
  }
  std::int64_t steps() const { return options_.steps; }

 private:
  std::vector<std::int32_t> random_tokens(Index count) {
    const RandomStream random{.seed = 1};
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<std::int32_t>(
          random.below(static_cast<std::uint64_t>(loaded_.model().sizes().vocabulary), i));
    return tokens;
  }

  LoadedModel loaded_;
  std::optional<Predictor> predictor_;
  Batch text_;
  std::optional<ImageSampler> sampler_;
  SamplerOptions options_;
  std::vector<std::int32_t> caption_;
  std::vector<std::uint8_t> pixels_;
};

using Servers = std::array<std::unique_ptr<LatencyServer>, 2>;  // f32, integers

void measure(const Servers& servers, void (LatencyServer::*answer)(), std::int64_t requests,
             std::int64_t repetitions, const std::string& what) {
  std::array<std::vector<double>, std::tuple_size_v<Servers>> times;
  for (std::int64_t i = 0; i < requests * (repetitions + 1); ++i)
    for (std::size_t s = 0; s < servers.size(); ++s) {
      const double time = seconds([&] { (*servers[s].*answer)(); });
      if (i >= requests) times[s].push_back(time);  // the first repetition warms up
    }
  for (std::size_t s = 0; s < servers.size(); ++s) {
    std::ranges::sort(times[s]);
    print_figure(fmt::format("{}, {}", what, s == 0 ? "f32" : "INT8"),
                 fmt::format("median {:.3f} ms, p99 {:.3f} ms", 1e3 * median(times[s]),
                             1e3 * times[s][times[s].size() * 99 / 100]));
  }
}

}  // namespace

void latency(const ProcessGrid& grid, const std::string& checkpoint,
             const std::vector<std::string>& overrides, std::int64_t repetitions) {
  const Servers servers{std::make_unique<LatencyServer>(checkpoint, overrides, grid, false),
                        std::make_unique<LatencyServer>(checkpoint, overrides, grid, true)};
  const LatencyServer& first = *servers[0];
  if (first.classifies())
    measure(servers, &LatencyServer::classify, kTexts, repetitions,
            fmt::format("one text of {} tokens", first.tokens()));
  if (first.draws())
    measure(servers, &LatencyServer::draw, kDrawings, repetitions,
            fmt::format("one image of {} steps", first.steps()));
}

}  // namespace conclave::bench

// Latency of classifying one text in f32 and in integers, measured alternately.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/random.h"
#include "recipes/bench/bench.h"
#include "recipes/predictor.h"

namespace conclave::bench {
namespace {

constexpr Index kRequestTokens = 128;
constexpr std::int64_t kRequests = 100;  // per repetition

// A model of one process and a text for it.
class LatencyServer {
 public:
  LatencyServer(const std::string& checkpoint, const ProcessGrid& grid, bool integers)
      : loaded_(checkpoint, grid,
                {fmt::format("quantization.enabled={}", integers), "quantization.start_step=0"}),
        predictor_(loaded_, grid) {
    require(loaded_.tokenizer().has_value(), "bench latency: {} is not of a model that classifies texts",
            checkpoint);
    const RandomStream random{.seed = 1};
    std::vector<std::int32_t> tokens(
        static_cast<std::size_t>(std::min<Index>(kRequestTokens, loaded_.recipe().data.max_length)));
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<std::int32_t>(
          random.below(static_cast<std::uint64_t>(loaded_.model().sizes().vocabulary), i));
    predictor_.add(tokens, {}, text_);
    text_.global_tokens = text_.local_tokens();
  }

  void answer() { predictor_.scores(text_); }

  Index tokens() const { return text_.local_tokens(); }

 private:
  LoadedModel loaded_;
  Predictor predictor_;
  Batch text_;
};

}  // namespace

void latency(const ProcessGrid& grid, const std::string& checkpoint, std::int64_t repetitions) {
  std::array servers{std::make_unique<LatencyServer>(checkpoint, grid, false),
                     std::make_unique<LatencyServer>(checkpoint, grid, true)};
  std::array<std::vector<double>, servers.size()> times;
  for (std::int64_t i = 0; i < kRequests * (repetitions + 1); ++i)
    for (std::size_t s = 0; s < servers.size(); ++s) {
      const double time = seconds([&] { servers[s]->answer(); });
      if (i >= kRequests) times[s].push_back(time);  // the first repetition warms up
    }
  for (std::size_t s = 0; s < servers.size(); ++s) {
    std::ranges::sort(times[s]);
    print_figure(fmt::format("one text of {} tokens, {}", servers[s]->tokens(), s == 0 ? "f32" : "INT8"),
                 fmt::format("median {:.3f} ms, p99 {:.3f} ms", 1e3 * median(times[s]),
                             1e3 * times[s][times[s].size() * 99 / 100]));
  }
}

}  // namespace conclave::bench

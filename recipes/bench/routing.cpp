// Cost of routing in inference: the router's share of a forward pass with and without the cache, and the cost
// of uneven loads between ranks.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "core/random.h"
#include "recipes/bench/bench.h"
#include "recipes/models/model.h"

namespace conclave::bench {
namespace {

constexpr Index kVocabulary = 8000;

// A stream of texts of 4 to 28 tokens, in batches. Nine of ten texts were seen before.
class Stream {
 public:
  void next(Batch& batch) {
    constexpr int kTexts = 256;
    batch.clear();
    for (int i = 0; i < kTexts; ++i) {
      const bool repeats = shown_++ % 10 != 0;
      append(repeats ? static_cast<int>(random_.below(static_cast<std::uint64_t>(seen_), drawn_++)) : seen_++,
             batch);
    }
    batch.global_tokens = batch.local_tokens();
    batch.global_sequences = batch.local_sequences();
  }

 private:
  // Appends text `number`, whose tokens depend on the number alone.
  static void append(int number, Batch& batch) {
    const RandomStream words{.seed = 2, .step = static_cast<std::uint32_t>(number), .tensor = 0};
    const auto length = static_cast<std::int32_t>(4 + words.below(25, 0));
    std::vector<std::int32_t> text;
    for (std::int32_t p = 0; p < length; ++p)
      text.push_back(static_cast<std::int32_t>(words.below(kVocabulary, 2 + static_cast<std::uint64_t>(p))));
    batch.add(text, 0);
  }

  RandomStream random_{.seed = 1, .step = 0, .tensor = 0};
  std::uint64_t drawn_ = 0;
  int seen_ = 0, shown_ = 0;
};

Recipe wide_experts(const MoeRecipe& moe) {
  Recipe recipe;
  recipe.model = {.hidden = 256, .layers = 2, .heads = 4, .ffn = 1536, .dropout = 0, .embedding_dropout = 0};
  recipe.moe = moe;
  return recipe;
}

// A text classifier ready for inference.
struct RoutingServer {
  RoutingServer(const MoeRecipe& moe, const ProcessGrid& grid)
      : model(wide_experts(moe),
              {.vocabulary = kVocabulary, .max_length = 32, .classes = 26, .unknown_token = 1}, grid),
        parameters(model, DType::f32, 1) {}

  Tensor answer(const Batch& batch) {
    activations.reset();
    Tape tape(activations, false);
    ForwardContext context{.training = false, .stream = {}, .global_tokens = batch.global_tokens};
    return (*model.classifier())(tape, context, model_input(batch)).logits;
  }
  double routing_seconds() {
    double sum = 0;
    for (const auto& [name, layer] : model.moe_layers()) sum += layer->statistics().routing_seconds;
    return sum;
  }

  Model model;
  ParameterSet parameters;
  Arena activations{"activations"};
};

}  // namespace

void routing_cache(const ProcessGrid& grid, std::int64_t repetitions) {
  MoeRecipe moe{.router = "attention"};
  RoutingServer off(moe, grid);
  moe.route_cache_mib = 64;
  RoutingServer on(moe, grid);
  Batch largest;
  std::vector<std::int32_t> longest(28);
  std::iota(longest.begin(), longest.end(), 0);
  for (int text = 0; text < 256; ++text) largest.add(longest, 0);
  largest.global_tokens = largest.local_tokens();
  for (RoutingServer* server : {&off, &on}) {
    server->answer(largest);
    server->activations.seal(std::size_t{1} << 16);
  }

  Stream stream;
  Batch batch;
  bool same = true;
  std::vector<double> shares[2], gains;
  Index hits = 0, looked_up = 0;
  const std::int64_t warm_up = 10;
  for (std::int64_t i = 0; i < warm_up + 5 * repetitions; ++i) {
    stream.next(batch);
    double seconds[2], routing[2];
    Tensor logits[2];
    for (const int k : {static_cast<int>(i % 2), static_cast<int>(1 - i % 2)}) {
      RoutingServer& server = k == 0 ? off : on;
      const double before = server.routing_seconds();
      seconds[k] = bench::seconds([&] { logits[k] = server.answer(batch); });
      routing[k] = server.routing_seconds() - before;
    }
    same = same && std::memcmp(logits[0].raw(), logits[1].raw(),
                               static_cast<std::size_t>(logits[0].numel()) * sizeof(float)) == 0;
    if (i < warm_up) continue;
    for (int k : {0, 1}) shares[k].push_back(routing[k] / seconds[k]);
    gains.push_back(seconds[0] / seconds[1]);
  }
  for (const auto& [name, layer] : on.model.moe_layers()) {
    const RouteCacheStatistics statistics = layer->route_cache()->statistics();
    hits += statistics.hits;
    looked_up += statistics.hits + statistics.misses;
  }
  print_figure("routing's share of a forward pass, attention router, no cache",
               fmt::format("{:.1f}%", 100 * median(shares[0])));
  print_figure(
      "with the cache, 90% of texts seen before",
      fmt::format("{:.1f}%; hits {:.0f}% from the start, pass x{:.2f} as fast, outputs {}",
                  100 * median(shares[1]), 100 * static_cast<double>(hits) / static_cast<double>(looked_up),
                  median(gains), same ? "identical" : "DIFFERENT"),
      0.02);
  require(same, "bench routing: the cache changed the outputs");
}

void routing_balance(const ProcessGrid& grid, std::int64_t repetitions) {
  constexpr Index kTokens = 4096, kHidden = 512, kFfn = 2048, kExperts = 8;
  constexpr double kUneven = 0.72;
  if (grid.world().size() != 2) {
    if (grid.world().rank() == 0)
      fmt::print("routing is measured on two ranks: mpirun -n 2 conclave bench routing\n");
    return;
  }
  MoeOptions options{.hidden = kHidden, .ffn = kFfn, .experts = kExperts};
  options.balancer = "grad_norm";
  MoeLayer uneven(options, grid);
  options.balance_inference = true;
  MoeLayer even(options, grid);
  ParameterSet parameters(uneven, DType::f32, 1), same_parameters(even, DType::f32, 1);
  Arena input("input"), activations("activations");
  const Tensor x = input.empty({kTokens, kHidden});
  const RandomStream stream{.seed = 3, .step = static_cast<std::uint32_t>(grid.world().rank()), .tensor = 0};
  for (Index i = 0; i < x.numel(); ++i)
    x.data<float>()[i] =
        i % kHidden == 0 ? 1.0f : static_cast<float>(stream.normal(static_cast<std::uint64_t>(i)));
  const Tensor offsets = Tensor::of<std::int32_t>({2}, {0, kTokens});
  ForwardContext context{.training = false, .stream = {}, .global_tokens = kTokens * grid.world().size()};
  const auto run = [&](MoeLayer& layer) {
    activations.reset();
    Tape tape(activations, false);
    layer(tape, context, x, offsets);
    return layer.chosen_experts(tape);
  };
  std::vector<Index> load(kExperts);
  const auto utilization_of = [&](MoeLayer& layer) {
    kernels::count_experts(run(layer), load);
    grid.world().all_reduce(Tensor::borrow(load.data(), {kExperts}, DType::i64));
    return utilization(load);
  };
  // Makes the router prefer the first rank's experts, by a bias `how` that is chosen to reach utilization
  // kUneven.
  const auto lean = [&](double how) {
    for (ParameterSet* set : {&parameters, &same_parameters})
      for (const Parameter* parameter : set->parameters())
        if (parameter->name == "router.weight")
          for (Index e = 0; e < kExperts; ++e)
            parameter->value.data<float>()[e * kHidden] = static_cast<float>(e < kExperts / 2 ? how : -how);
  };
  for (MoeLayer* layer : {&uneven, &even}) run(*layer);
  activations.seal(std::size_t{64} << 20);
  double low = 0, high = 4;
  for (int i = 0; i < 12; ++i) {
    lean((low + high) / 2);
    (utilization_of(uneven) > kUneven ? low : high) = (low + high) / 2;
  }
  const double before = utilization_of(uneven), after = utilization_of(even);
  const auto together = [&](MoeLayer& layer) {
    return [&] {
      grid.world().barrier();
      run(layer);
      grid.world().barrier();
    };
  };
  const Comparison time = compare(together(even), together(uneven), 2 * repetitions);
  if (grid.world().rank() != 0) return;
  print_figure(fmt::format("MoE layer's forward pass on {} ranks, utilization {:.0f}%", grid.world().size(),
                           100 * before),
               fmt::format("{:.1f} ms", 1e3 * time.reference));
  print_figure(fmt::format("evened by grad_norm to {:.0f}%", 100 * after),
               fmt::format("{:.1f} ms: {:.0f}% less", 1e3 * time.subject, 100 * (1 - 1 / time.ratio)), 0.25);
}

}  // namespace conclave::bench

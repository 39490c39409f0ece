#include "recipes/evaluation/expert_usage.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace conclave {
namespace {

void insert(std::vector<Favourite>& best, const Favourite& candidate) {
  best.insert(std::ranges::upper_bound(best, candidate, liked_better), candidate);
  if (best.size() > kFavourites) best.pop_back();
}

// Before, each rank has the favourites among its own texts; afterwards all ranks have those among all texts.
void gather_favourites(std::vector<LayerUsage>& layers, Communicator& world) {
  std::vector<Index> mine;  // (text, routed, tokens) for every place, also for empty ones
  for (const LayerUsage& layer : layers)
    for (std::vector<Favourite> best : layer.favourites) {
      best.resize(kFavourites);
      for (const Favourite& one : best) mine.insert(mine.end(), {one.text, one.routed, one.tokens});
    }
  std::vector<Index> all(mine.size() * static_cast<std::size_t>(world.size()));
  world.all_gather(Tensor::borrow(mine.data(), {static_cast<Index>(mine.size())}, DType::i64),
                   Tensor::borrow(all.data(), {static_cast<Index>(all.size())}, DType::i64));
  for (LayerUsage& layer : layers)
    for (auto& best : layer.favourites) best.clear();
  for (auto at = all.begin(); at != all.end();)
    for (LayerUsage& layer : layers)
      for (auto& best : layer.favourites)
        for (std::size_t i = 0; i < kFavourites; ++i, at += 3)
          if (at[0] >= 0) insert(best, {at[0], at[1], at[2]});
}

}  // namespace

bool liked_better(const Favourite& a, const Favourite& b) {
  const Index left = a.routed * b.tokens, right = b.routed * a.tokens;
  if (left != right) return left > right;
  if (a.tokens != b.tokens) return a.tokens > b.tokens;
  return a.text < b.text;
}

std::vector<std::size_t> permutation(std::size_t size, std::uint64_t seed) {
  const RandomStream stream{.seed = seed};
  std::vector<std::size_t> order(size);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = size; i-- > 1;) std::swap(order[i], order[stream.below(i + 1, i)]);
  return order;
}

std::vector<LayerUsage> measure_expert_usage(SplitEvaluation& evaluation, Communicator& world) {
  const auto moe_layers = evaluation.loaded().model().moe_layers();
  const std::size_t classes = evaluation.class_names().size();
  std::vector<LayerUsage> layers(moe_layers.size());
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const std::size_t experts = moe_layers[l].second->statistics().load.size();
    layers[l].name = moe_layers[l].first;
    layers[l].shuffled.resize(experts * classes);
    layers[l].favourites.resize(experts);
  }
  const auto& labels = evaluation.tokens().labels;
  const auto order = permutation(labels.size(), static_cast<std::uint64_t>(evaluation.recipe().run.seed));

  std::vector<Index> routed;  // [experts], for one text
  Evaluation result = evaluation.run([&](const Batch& batch, std::span<const Tensor> chosen_experts) {
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const auto experts = chosen_experts[l].span<std::int32_t>();
      const auto width = static_cast<std::size_t>(chosen_experts[l].size(1)),
                 uses = width / static_cast<std::size_t>(moe_layers[l].second->max_experts_per_token());
      for (std::size_t s = 0; s < batch.examples.size(); ++s) {
        const auto first = static_cast<std::size_t>(batch.offsets[s]);
        const auto tokens = static_cast<std::size_t>(batch.offsets[s + 1]) - first;
        routed.assign(layers[l].favourites.size(), 0);
        for (const std::int32_t expert : experts.subspan(first * width, tokens * width))
          if (expert >= 0) ++routed[static_cast<std::size_t>(expert)];
        const auto label =
            static_cast<std::size_t>(labels[order[static_cast<std::size_t>(batch.examples[s])]]);
        for (std::size_t e = 0; e < routed.size(); ++e) {
          layers[l].shuffled[e * classes + label] += routed[e];
          const Favourite text{batch.examples[s], routed[e], static_cast<Index>(tokens * uses)};
          if (routed[e] > 0 && tokens >= kShortestFavourite) insert(layers[l].favourites[e], text);
        }
      }
    }
  });
  for (std::size_t l = 0; l < layers.size(); ++l) {
    layers[l].counts = std::move(result.expert_classes[l]);
    if (!result.image_share.empty()) layers[l].image_share = std::move(result.image_share[l]);
    if (!result.domain.empty()) layers[l].domain = std::move(result.domain[l]);
    world.all_reduce(Tensor::borrow(layers[l].shuffled.data(),
                                    {static_cast<Index>(layers[l].shuffled.size())}, DType::i64));
  }
  gather_favourites(layers, world);
  return layers;
}

}  // namespace conclave

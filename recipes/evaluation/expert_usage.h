// What a layer's experts do with the texts of a split: the classes they serve, compared with chance, and the
// texts of which they receive the largest share.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "recipes/evaluation/split_evaluation.h"

namespace conclave {

/// A text, and how many of its tokens go to an expert.
struct Favourite {
  Index text = -1;   ///< index in the split
  Index routed = 0;  ///< tokens of it that went to the expert
  Index tokens = 0;  ///< all its tokens, each counted once for each use of the layer

  double share() const { return static_cast<double>(routed) / static_cast<double>(tokens); }
};
/// True if `a` ranks before `b`: by share, then the longer text, then the earlier one.
bool liked_better(const Favourite& a, const Favourite& b);

struct LayerUsage {
  std::string name;
  std::vector<Index> counts;            ///< [expert * classes + class], as an ExpertTable views it
  std::vector<Index> shuffled;          ///< the same with the texts' labels shuffled: what chance alone gives
  std::optional<DomainRouting> domain;  ///< none if no text of the split is of the domain
  std::vector<double> image_share;      ///< as Evaluation::image_share, for this layer
  std::vector<std::vector<Favourite>> favourites;  ///< [experts], up to kFavourites each, best first
};

inline constexpr std::size_t kFavourites = 3;
inline constexpr std::size_t kShortestFavourite = 5;  ///< tokens; of a shorter text, an expert easily
                                                      ///< receives all

/// seed -> a permutation of 0, ..., size - 1.
std::vector<std::size_t> permutation(std::size_t size, std::uint64_t seed);

/// Collective; the same result on every rank, one entry per MoE layer.
std::vector<LayerUsage> measure_expert_usage(SplitEvaluation& evaluation, Communicator& world);

}  // namespace conclave

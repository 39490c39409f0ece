// Counts where an evaluation's tokens went: how many each expert of each layer received, by class and by
// domain, and how many were rows of images.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "data/dynamic_batcher.h"
#include "parallel/communicator.h"
#include "recipes/evaluation/domain_routing.h"

namespace conclave {

class RoutingCounts {
 public:
  /// `most_experts`: the most experts that a layer sends a token to.
  RoutingCounts(std::size_t layers, std::size_t experts, std::size_t classes, std::size_t most_experts);

  /// Collective. Counts this rank's share of a batch; `chosen_experts` are those of MoeLayer::chosen_experts,
  /// by layer.
  void add(const Batch& batch, std::span<const Tensor> chosen_experts, Communicator& world);
  /// Collective, once, after the last batch: sums the counts over all ranks.
  void reduce(Communicator& world);

  // These are the members of Evaluation with the same names.
  std::vector<std::vector<Index>> expert_classes() const;
  std::vector<Index> experts_per_token() const;
  std::vector<DomainRouting> domain() const;
  std::vector<std::vector<double>> image_share() const;
  double utilization() const;
  double batch_utilization() const;

 private:
  // Indices into `counts_`. An expert's number counts the experts of all layers.
  std::size_t expert(std::size_t layer, std::size_t number) const { return layer * experts_ + number; }
  std::size_t of_class(std::size_t expert, std::size_t number) const { return expert * classes_ + number; }
  std::size_t received(std::size_t expert, bool in_domain) const;
  std::size_t of_images(std::size_t expert) const;
  std::size_t sent_to(std::size_t experts) const;  // tokens that went to this many experts
  std::size_t tokens(bool in_domain) const;
  std::size_t size() const { return tokens(true) + 1; }

  std::size_t layers_, experts_, classes_, most_experts_;
  std::vector<Index> counts_;
  std::vector<Index> batch_load_;  // by expert of all layers, for the last batch, over all ranks
  double utilization_sum_ = 0;     // over all batches and layers
  Index batches_ = 0;
};

}  // namespace conclave

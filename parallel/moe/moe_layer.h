// A mixture-of-experts layer under expert parallelism: router -> top-k gate -> dispatch to the ranks that
// hold the experts -> experts (grouped products) -> back -> weighted sum, beside optional shared experts that
// see every token (Dai et al. 2024, section 3.2) and are computed while the rows travel.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/nn/layers.h"
#include "parallel/moe/balancer.h"
#include "parallel/moe/dispatcher.h"
#include "parallel/moe/expert.h"
#include "parallel/moe/router_losses.h"
#include "parallel/process_grid.h"

namespace conclave {

struct MoeOptions {
  Index hidden = 0, ffn = 0;
  Index experts = 8, top_k = 2, shared_experts = 0;
  kernels::TopP top_p = {};  ///< how many of the top_k a token goes to
  std::string expert = "feed_forward";
  std::string balancer = "bias";
  BalancerOptions balancing = {};
  RouterLosses router_losses = {};
  double capacity_factor = 1.5;  ///< planned rows per rank and round, over the mean
};

/// What a layer did since the last reset, on this rank.
struct MoeStatistics {
  std::vector<Index> load;  ///< [experts] rows that this rank's tokens sent to each expert
  double seconds = 0;       ///< forward and backward
  Index rounds = 0;         ///< dispatch rounds
  Index passes = 0;         ///< forward passes; rounds / passes > 1 where the routing outgrew the plan
};

class MoeLayer : public Module {
 public:
  /// `grid` must outlive the layer.
  MoeLayer(const MoeOptions& options, const ProcessGrid& grid);

  /// x [tokens, hidden] -> [tokens, hidden]. Collective over the expert-parallel group.
  Tensor operator()(Tape& tape, ForwardContext& context, const Tensor& x);

  MoeStatistics& statistics() { return statistics_; }
  /// Forgets the loads, times and rounds.
  void reset_statistics();
  Balancer& balancer() { return *balancer_; }
  Dispatcher& dispatcher() { return dispatcher_; }
  Index top_k() const { return options_.top_k; }
  /// [tokens, top_k] i32, -1 behind a token's last, of the last forward pass, in its tape's arena.
  const Tensor& chosen_experts() const { return chosen_; }

 private:
  static constexpr std::size_t kMostExpertParameters = Tape::kMostInputs - 2;

  Tensor experts_in_rounds(Tape& tape, const Tensor& x, const functions::Gate& gate,
                           const DispatchPlan& plan);

  MoeOptions options_;
  const ProcessGrid& grid_;
  Linear router_;
  std::unique_ptr<BaseExpert> experts_;
  std::vector<Parameter*> expert_parameters_;
  std::optional<FeedForward> shared_;
  std::unique_ptr<Balancer> balancer_;
  Dispatcher dispatcher_;
  MoeStatistics statistics_;
  Tensor chosen_;
};

}  // namespace conclave

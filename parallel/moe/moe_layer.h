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
#include "parallel/moe/mixed_experts.h"
#include "parallel/moe/router.h"
#include "parallel/moe/router_losses.h"
#include "parallel/process_grid.h"

namespace conclave {

struct MoeOptions {
  Index hidden = 0, ffn = 0;
  Index experts = 8, top_k = 2, shared_experts = 0;
  std::string router = "linear";
  Index router_heads = 4;
  double router_noise = 0;
  double route_cache_mib = 0;  ///< for router scores in inference, of this layer; 0: none
  Index longest_sequence = 0;  ///< rows; read where there is a cache
  /// "top_k": tokens choose experts; "expert_choice": experts choose as many tokens, without a balancer
  std::string gate = "top_k";
  kernels::TopP top_p = {};             ///< how many of the top_k a token goes to
  std::string expert = "feed_forward";  ///< the kind of all, or "6 feed_forward, 2 gated"
  std::string balancer = "bias";
  bool balance_inference = false;  ///< balancers that correct batches do so there, too
  BalancerOptions balancing = {};
  RouterLosses router_losses = {};
  double capacity_factor = 1.5;  ///< planned rows per rank and round, over the mean
  Index dispatch_chunks = 0;     ///< of a round, see Dispatcher
  /// Passes may be ones that tell_examples_apart; all rows then come in one round.
  bool tells_examples_apart = false;
  Quantization* quantization = nullptr;  ///< of the model, where the experts are quantized
};

/// What a layer did since the last reset, on this rank.
struct MoeStatistics {
  std::vector<Index> load;     ///< [experts] rows that this rank's tokens sent to each expert in training
  std::vector<Index> used;     ///< [experts] the same in inference
  std::vector<double> loss;    ///< [experts] losses of the tokens each served, times the gate's weights; both
  std::vector<double> weight;  ///< and the weights' sums are of those told to attribute_losses
  double seconds = 0;          ///< forward and backward
  double routing_seconds = 0;  ///< of the forward passes' router and gate
  double balancing_seconds = 0;  ///< of what a balancer learns and corrects, with waiting for other ranks
  Index rounds = 0;              ///< dispatch rounds
  Index passes = 0;  ///< forward passes, each use one; rounds / passes > 1 where the routing outgrew the plan
};

class MoeLayer : public Module {
 public:
  /// `grid` must outlive the layer.
  MoeLayer(const MoeOptions& options, const ProcessGrid& grid);

  /// x [tokens, hidden], of sequences that offsets [sequences + 1] i32, in host memory, divide it into ->
  /// [tokens, hidden]. Collective over the expert-parallel group and, with balancers that correct batches,
  /// over all ranks. A model may apply the layer several times in one forward pass, to as many tokens each
  /// time; `use` is then 0, 1, ...
  Tensor operator()(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets,
                    Index use = 0);

  /// What a row becomes depends on that row alone, and not on the others of its sequence or of the batch.
  bool row_by_row() const;

  /// With top_k experts for each token, be it fewer for some by top_p.
  double flops(Extent& extent) const override;

  // What a balancer learns of a step, beside the loads.

  /// After a forward pass, in its tape's lifetime: losses [sequences], of those that offsets [sequences + 1]
  /// i32, in host memory, divide x into. A token's loss is its sequence's.
  void attribute_losses(Tape& tape, const Tensor& losses, const Tensor& offsets);
  /// Once the gradients are complete: adds to squares [experts] those of each expert's gradient, this rank's
  /// share of them, so that the sum over all ranks is the squared norm.
  void add_gradient_squares(std::span<double> squares);
  /// Then: multiplies each expert's gradient by the balancer's weight for it.
  void weight_gradients();

  const MoeOptions& options() const { return options_; }
  MoeStatistics& statistics() { return statistics_; }
  /// Forgets the loads, losses, times and rounds.
  void reset_statistics();
  Balancer& balancer() { return *balancer_; }
  const Balancer& balancer() const { return *balancer_; }
  /// Null without one.
  RouteCache* route_cache() { return route_cache_ ? &*route_cache_ : nullptr; }
  const MixedExperts& experts() const { return experts_; }
  Dispatcher& dispatcher() { return dispatcher_; }
  /// The most experts that a token goes to.
  Index most_experts() const { return options_.gate == "top_k" ? options_.top_k : options_.experts; }
  /// Of the last forward pass, which was on `tape`: [tokens, uses x most_experts()] i32 in host memory, -1
  /// behind a token's last of each use.
  Tensor chosen_experts(Tape& tape) const;

 private:
  functions::Gate choose_experts(Tape& tape, const ForwardContext& context, const Tensor& probabilities);
  ChunkRows compute_experts(Tape& tape, const Tensor& rows, const DispatchRound& round);
  Tensor experts_in_rounds(Tape& tape, const Tensor& x, const functions::Gate& gate,
                           const DispatchPlan& plan);

  MoeOptions options_;
  const ProcessGrid& grid_;
  std::unique_ptr<Router> router_;
  std::optional<RouteCache> route_cache_;
  MixedExperts experts_;
  std::vector<const Tensor*> expert_values_;  // of their parameters
  std::optional<FeedForward> shared_;
  std::unique_ptr<Balancer> balancer_;
  Dispatcher dispatcher_;
  MoeStatistics statistics_;
  std::vector<functions::Gate> gates_;  // of the last forward pass, by use
};

}  // namespace conclave

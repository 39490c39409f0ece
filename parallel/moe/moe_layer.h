// A mixture-of-experts layer under expert parallelism: router -> top-k gate -> dispatch of rows to the ranks
// that hold the experts -> experts (grouped products) -> results back -> weighted sum. dispatcher.h explains
// the words for the exchange (plan, round, chunk, slot). Optional shared experts see every token (Dai et al.
// 2024, section 3.2) and are computed while the rows travel.
#pragma once

#include <memory>
#include <optional>
#include <span>
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
  double route_cache_mib = 0;  ///< size of this layer's cache of router scores in inference; 0: no cache
  Index longest_sequence = 0;  ///< rows of the longest sequence; used only with a cache
  /// "top_k": tokens choose experts. "expert_choice": each expert chooses the same number of tokens; no
  /// balancer acts.
  std::string gate = "top_k";
  kernels::TopP top_p = {};             ///< which of its top_k experts a token really goes to
  std::string expert = "feed_forward";  ///< one kind for all, or "6 feed_forward, 2 gated"
  std::string balancer = "bias";
  bool balance_inference = false;  ///< balancers that correct each batch also do so in inference
  BalancerOptions balancing = {};
  OwnOptions own = {};  ///< for kinds of plug-ins, also the balancer
  RouterLosses router_losses = {};
  double capacity_factor = 1.5;  ///< planned rows per rank and round, relative to the most that a rank sends
  Index dispatch_chunks = 0;     ///< chunks per round, see Dispatcher
  /// Whether passes may call Tape::collect_example_gradients; all rows then come in one round.
  bool collects_example_gradients = false;
  Quantization* quantization = nullptr;  ///< the model's; null: experts are not quantized
};

/// What a layer did since the last reset, on this rank.
struct MoeStatistics {
  std::vector<Index> load;       ///< [experts] rows that this rank's tokens sent to each expert in training
  std::vector<Index> used;       ///< [experts] rows that this rank's tokens sent to each expert in inference
  std::vector<double> loss;      ///< [experts] sum of loss times gate weight over the tokens served
  std::vector<double> weight;    ///< [experts] sum of these gate weights; both are filled by attribute_losses
  double seconds = 0;            ///< forward and backward
  double routing_seconds = 0;    ///< router and gate in the forward passes
  double balancing_seconds = 0;  ///< the balancer's work, including waiting for other ranks
  Index rounds = 0;              ///< dispatch rounds
  Index passes = 0;  ///< forward passes, by use; rounds / passes > 1: routing exceeded the planned capacity
};

class MoeLayer : public Module {
 public:
  /// `grid` must outlive the layer.
  MoeLayer(const MoeOptions& options, const ProcessGrid& grid);

  /// x [tokens, hidden] -> [tokens, hidden]; offsets [sequences + 1] i32, in host memory, divide the tokens
  /// into sequences. Collective over the expert-parallel group and, with balancers that correct each batch
  /// or have a gradient, and with the gate expert_choice, over all ranks. A model may apply the layer several
  /// times in one forward pass, each time to the same number of tokens; `use` is then 0, 1, ...
  Tensor operator()(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets,
                    Index use = 0);

  /// True if an output row depends on its input row alone, not on other rows of its sequence or of the batch.
  bool row_by_row() const;

  /// Counts top_k experts for each token, even if top_p selects fewer for some tokens.
  double flops(Extent& extent) const override;

  // What a balancer needs about a step in addition to the loads.

  /// Adds losses to the statistics. Call it after a forward pass while its tape lives. losses [sequences]: a
  /// token's loss is that of its sequence; offsets [sequences + 1] i32, in host memory, divide x into
  /// sequences.
  void attribute_losses(Tape& tape, const Tensor& losses, const Tensor& offsets);
  /// Call it once the gradients are complete. Adds to squares [experts] this rank's share of the squared norm
  /// of each expert's gradient; the sum over all ranks is the squared norm.
  void add_gradient_squares(std::span<double> squares);
  /// Call it after add_gradient_squares(). Multiplies each expert's gradient by the balancer's weight for it.
  void weight_gradients();

  const MoeOptions& options() const { return options_; }
  MoeStatistics& statistics() { return statistics_; }
  /// Sets all statistics to zero.
  void reset_statistics();
  Balancer& balancer() { return *balancer_; }
  const Balancer& balancer() const { return *balancer_; }
  /// Null if the layer has no cache.
  RouteCache* route_cache() { return route_cache_ ? &*route_cache_ : nullptr; }
  const MixedExperts& experts() const { return experts_; }
  Dispatcher& dispatcher() { return dispatcher_; }
  /// The largest number of experts that a token can go to.
  Index max_experts_per_token() const { return options_.gate == "top_k" ? options_.top_k : options_.experts; }
  /// The choices of the last forward pass, recorded on `tape`: [tokens, uses x max_experts_per_token()] i32
  /// in host memory. Within each use, -1 follows a token's last expert.
  Tensor chosen_experts(Tape& tape) const;

 private:
  // Which experts the tokens of one pass go to. Spans live in the tape's arena.
  struct Routing {
    functions::Gate gate;
    std::span<Index> counts;  // [experts]: rows that this rank's tokens send to each
    std::span<Index>
        load;  // [experts]: rows that all ranks' tokens send to each; read by the balancer's gradient
  };
  Routing route(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets);
  Tensor through_experts(Tape& tape, const Tensor& x, const Tensor& host_offsets, const functions::Gate& gate,
                         const DispatchPlan& plan);
  functions::Gate choose_experts(Tape& tape, const ForwardContext& context, const Tensor& probabilities);
  ChunkRows compute_experts(Tape& tape, const Tensor& rows, const DispatchRound& round);
  Tensor experts_in_rounds(Tape& tape, const Tensor& x, const functions::Gate& gate,
                           const DispatchPlan& plan);

  MoeOptions options_;
  const ProcessGrid& grid_;
  std::unique_ptr<Router> router_;
  std::optional<RouteCache> route_cache_;
  MixedExperts experts_;
  std::vector<const Tensor*> expert_values_;  // values of all the experts' parameters
  std::optional<FeedForward> shared_;
  std::unique_ptr<Balancer> balancer_;
  Dispatcher dispatcher_;
  MoeStatistics statistics_;
  std::vector<functions::Gate> gates_;  // of the last forward pass, one for each use
};

}  // namespace conclave

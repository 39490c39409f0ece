// Keeps the experts of a layer equally busy. All ways stand behind one interface: what takes part in the
// selection, a gradient on the router's probabilities, weights of the experts' gradients, an update from what
// each expert did in a step.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/kernels/gate.h"

namespace conclave {

struct BalancerOptions {
  double aux_coefficient = 0.01;         ///< a of the auxiliary loss
  double bias_rate = 0.001;              ///< gamma, how far a bias moves in one step
  double grad_norm_rate = 0.02;          ///< share of the loads' unevenness that a step takes back
  Index grad_norm_rounds = 4;            ///< corrections of the selection for a batch
  double grad_norm_alpha = 0.5;          ///< how much more an expert is to learn whose loss falls slowly
  std::string grad_norm_moves = "both";  ///< "both", or only the experts' "weights" or the selection's "bias"
};

/// What the experts of a layer did in a step, over all ranks; [experts] each.
struct ExpertSignals {
  std::span<const Index> load;  ///< rows each received
  /// Norm of each expert's gradient, over all its parameters; empty for a balancer that has no use for it.
  std::span<const double> gradient_norm;
  /// Mean loss of the sequences whose tokens it served, weighted by the gate; 0 without any; empty likewise.
  std::span<const double> loss;
};

class Balancer {
 public:
  virtual ~Balancer() = default;

  /// What takes part in the selection: [experts] f32 each, or undefined.
  virtual kernels::Selection selection() const { return {}; }
  /// Fills in the rows that each expert would receive over all ranks if this batch were sent by `selection`.
  using CountLoad = std::function<void(const kernels::Selection& selection, std::span<Index> load)>;
  /// The selection for a batch, of training or else of inference. Collective if `count` is called.
  virtual kernels::Selection select_batch(const CountLoad& /*count*/, bool /*training*/) {
    return selection();
  }

  /// True where probability_gradient() is to be called in every backward pass.
  virtual bool has_gradient() const { return false; }
  /// The gradient of the auxiliary loss at each token's probabilities, the same for all tokens: gradient[e],
  /// from the micro-batch's global load per expert and its global number of tokens.
  virtual void probability_gradient(std::span<const Index> load, Index tokens,
                                    std::span<double> gradient) const;

  /// True where update() needs the experts' gradient norms and losses.
  virtual bool wants_gradients() const { return false; }
  /// What each expert's gradient is multiplied by before the optimizer sees it; empty: 1.
  virtual std::span<const double> gradient_weights() const { return {}; }
  /// After a step's gradients are complete, on every rank alike.
  virtual void update(const ExpertSignals& /*signals*/) {}

  /// True where calibrate() is of use before inference.
  virtual bool calibrates() const { return false; }
  /// After batch number 0, 1, ... of training texts in inference: `load` of it, over all ranks.
  virtual void calibrate(std::span<const Index> /*load*/, Index /*number*/) {}

  /// What changes, for checkpoints; the same on every rank.
  struct State {
    const char* name;
    Tensor values;
    bool training_only;  ///< not needed to use the model
  };
  virtual std::vector<State> state() const { return {}; }
};

/// "none", "aux_loss" (Fedus et al. 2022, eq. 4: a E sum_e f_e P_e), "bias" (Wang et al. 2024, algorithm 1:
/// b_e += gamma sign(mean load - load_e)), "grad_norm" (parallel/moe/grad_norm.h). Throws Error on another
/// name.
std::unique_ptr<Balancer> make_balancer(const std::string& name, Index experts,
                                        const BalancerOptions& options);

double mean_load(std::span<const Index> load);
/// Mean load over the largest: 1 when all experts are equally busy, 1/experts when one does everything.
double utilization(std::span<const Index> load);

}  // namespace conclave

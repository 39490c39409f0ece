// Keeps the experts of a layer equally busy. All methods share one interface: a bias or factor in the
// selection of experts, a gradient on the router's probabilities, weights on the experts' gradients, and an
// update after each step from what each expert did in it.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/kernels/gate.h"

namespace conclave {

struct BalancerOptions {
  double aux_coefficient = 0.01;         ///< coefficient a of the auxiliary loss
  double bias_rate = 0.001;              ///< gamma: how far a bias moves in one step
  double grad_norm_rate = 0.02;          ///< share of the loads' error that one step corrects
  Index grad_norm_rounds = 4;            ///< corrections of the selection for each batch
  double grad_norm_alpha = 0.5;          ///< exponent alpha: larger favours experts whose loss falls slowly
  std::string grad_norm_moves = "both";  ///< "both", "weights" (of gradients) or "bias" (of selection)
};

/// What each expert of a layer did in a step, over all ranks. All spans are [experts].
struct ExpertSignals {
  std::span<const Index> load;  ///< rows that each expert received
  /// Norm of each expert's gradient over all its parameters. Empty for balancers that do not use gradients.
  std::span<const double> gradient_norm;
  /// Mean loss of the sequences with tokens at this expert, weighted by the gate; 0 for an expert without
  /// tokens. Empty for balancers that do not use gradients.
  std::span<const double> loss;
};

class Balancer {
 public:
  virtual ~Balancer() = default;

  /// The bias and the factor that take part in the selection of experts: [experts] f32 each, or undefined.
  virtual kernels::Selection selection() const { return {}; }
  /// Fills `load` with the rows that each expert would receive over all ranks with this `selection`.
  using CountLoad = std::function<void(const kernels::Selection& selection, std::span<Index> load)>;
  /// The selection for one batch, in training or in inference. Collective if it calls `count`.
  virtual kernels::Selection select_batch(const CountLoad& /*count*/, bool /*training*/) {
    return selection();
  }

  /// True where probability_gradient() is to be called in every backward pass.
  virtual bool has_gradient() const { return false; }
  /// The gradient of the auxiliary loss with respect to a token's probabilities, which is the same for all
  /// tokens. `load` and `tokens` are those of the micro-batch over all ranks; fills gradient [experts].
  virtual void probability_gradient(std::span<const Index> load, Index tokens,
                                    std::span<double> gradient) const;

  /// True where update() needs the experts' gradient norms and losses.
  virtual bool wants_gradients() const { return false; }
  /// Factors for each expert's gradient, applied before the optimizer's step. Empty means all are 1.
  virtual std::span<const double> gradient_weights() const { return {}; }
  /// Called on every rank with the same signals once a step's gradients are complete.
  virtual void update(const ExpertSignals& /*signals*/) {}

  /// True if calibrate() should be called before inference.
  virtual bool calibrates() const { return false; }
  /// Called in inference after batch number 0, 1, ... of training texts, with the batch's load over all
  /// ranks.
  virtual void calibrate(std::span<const Index> /*load*/, Index /*number*/) {}

  /// Begins training anew from the model's own tensors: what is training_only has its initial values again.
  virtual void restart() {}

  /// A tensor that training changes, for checkpoints; the same on every rank.
  struct State {
    const char* name;
    Tensor values;
    bool training_only;  ///< not needed to use the model
  };
  virtual std::vector<State> state() const { return {}; }
};

/// "none", "aux_loss" (Fedus et al. 2022, eq. 4: a E sum_e f_e P_e), "bias" (Wang et al. 2024, algorithm 1:
/// b_e += gamma sign(mean load - load_e)), "grad_norm" (parallel/moe/grad_norm.h). Throws Error on any other
/// name.
std::unique_ptr<Balancer> make_balancer(const std::string& name, Index experts,
                                        const BalancerOptions& options);

double mean_load(std::span<const Index> load);
/// Mean load divided by the largest load: 1 when all experts are equally busy, 1/experts when one does
/// everything.
double utilization(std::span<const Index> load);

}  // namespace conclave

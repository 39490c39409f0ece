// Keeps the experts of a layer equally busy. All methods share one interface: a bias or factor in the
// selection of experts, a gradient on the router's probabilities, weights on the experts' gradients, and an
// update after each step from what each expert did in it. A new kind is one subclass and one registration, as
// for experts.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/kernels/gate.h"
#include "core/own_options.h"
#include "core/plugin.h"

namespace conclave {

struct BalancerOptions {
  double aux_coefficient = 0.01;         ///< coefficient a of the auxiliary loss
  double bias_rate = 0.001;              ///< gamma: how far a bias moves in one step
  double grad_norm_rate = 0.02;          ///< share of the loads' error that one step corrects
  Index grad_norm_rounds = 4;            ///< corrections of the selection for each batch
  double grad_norm_alpha = 0.5;          ///< exponent alpha: larger favours experts whose loss falls slowly
  std::string grad_norm_moves = "both";  ///< "both", "weights" (of gradients) or "bias" (of selection)
  OwnOptions own = {};                   ///< moe.options, for kinds of plug-ins; read them in the constructor
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

  /// True where select_batch() corrects the selection for each batch, so that moe.balance_inference has an
  /// effect.
  virtual bool corrects_batches() const { return false; }
  /// False where update() does nothing and no expert is driven towards the load of the others by the
  /// selection. Others need the loads of all examples in a step, and cannot serve layers whose experts are to
  /// have different loads.
  virtual bool follows_loads() const { return true; }

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

using BalancerFactory =
    std::function<std::unique_ptr<Balancer>(Index experts, const BalancerOptions& options)>;

/// Makes `name` known to recipes (moe.balancer). Static objects of this type register a kind before main. The
/// built-in kinds are:
///   none       does nothing
///   aux_loss   a loss on uneven loads (Fedus et al. 2022, eq. 4: a E sum_e f_e P_e)
///   bias       a bias of the selection (Wang et al. 2024, algorithm 1: b += gamma sign(mean load - load))
///   grad_norm  gradient normalization (parallel/moe/grad_norm.h)
struct BalancerRegistration {
  BalancerRegistration(const std::string& name, BalancerFactory factory,
                       const char* mark = conclave_plugin_abi);
};

/// At namespace scope: CONCLAVE_REGISTER_BALANCER("mine", MyBalancer); for `struct MyBalancer : Balancer`
/// with the constructor MyBalancer(Index experts, const BalancerOptions& options).
#define CONCLAVE_REGISTER_BALANCER(name, Kind)                                                    \
  static const ::conclave::BalancerRegistration CONCLAVE_UNIQUE_NAME(conclave_balancer_) {        \
    name,                                                                                         \
        [](::conclave::Index experts,                                                             \
           const ::conclave::BalancerOptions& options) -> std::unique_ptr<::conclave::Balancer> { \
          return std::make_unique<Kind>(experts, options);                                        \
        }                                                                                         \
  }

/// For a layer with this many experts. Throws Error, listing the known kinds, if `name` is unknown.
std::unique_ptr<Balancer> make_balancer(const std::string& name, Index experts,
                                        const BalancerOptions& options);
std::vector<std::string> balancer_kinds();
/// Throws Error, listing the known kinds, if `name` is unknown.
void expect_balancer_kind(const std::string& name);

double mean_load(std::span<const Index> load);
/// Mean load divided by the largest load: 1 when all experts are equally busy, 1/experts when one does
/// everything.
double utilization(std::span<const Index> load);

}  // namespace conclave

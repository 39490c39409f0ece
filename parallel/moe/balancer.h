// Keeps the experts of a layer equally busy. All ways stand behind one interface: a bias that takes part in
// the selection, a gradient on the router's probabilities, an update from the loads after each step.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace conclave {

struct BalancerOptions {
  double aux_coefficient = 0.01;  ///< a of the auxiliary loss
  double bias_rate = 0.001;       ///< gamma, how far a bias moves in one step
};

class Balancer {
 public:
  virtual ~Balancer() = default;

  /// Added to the probabilities for the selection only: [experts] f32, or undefined.
  virtual const Tensor& selection_bias() const { return none_; }
  /// True where probability_gradient() is to be called in every backward pass.
  virtual bool has_gradient() const { return false; }
  /// The gradient of the auxiliary loss at each token's probabilities, the same for all tokens: gradient[e],
  /// from the micro-batch's global load per expert and its global number of tokens.
  virtual void probability_gradient(std::span<const Index> load, Index tokens,
                                    std::span<double> gradient) const;
  /// After a step: `load` is how many rows each expert received, over all ranks.
  virtual void update(std::span<const Index> /*load*/) {}

 private:
  Tensor none_;
};

/// "none", "aux_loss" (Fedus et al. 2022, eq. 4: a E sum_e f_e P_e), "bias" (Wang et al. 2024, algorithm 1:
/// b_e += gamma sign(mean load - load_e)). Throws Error on another name.
std::unique_ptr<Balancer> make_balancer(const std::string& name, Index experts,
                                        const BalancerOptions& options);

/// Mean load over the largest: 1 when all experts are equally busy, 1/experts when one does everything.
double utilization(std::span<const Index> load);

}  // namespace conclave

// Balance by gradient normalization, after GradNorm (Chen et al. 2018, arXiv:1711.02257), with the experts of
// a layer as its tasks.
//
// The plain formula takes the gradient norm G_e = |w_e dL/dtheta_e| and the target T_e = mean(G) r_e^alpha,
// where r_e is the share of its first loss that an expert still has, relative to the other experts. It moves
// both the weight w_e and the selection against G_e - T_e. That does not balance the loads: the weights alone
// can bring every G_e to its target, whatever the loads are, and then no error is left to move tokens. (Under
// AdamW, which divides a gradient by its own size, the weights do so without any effect on what is learned.)
//
// Therefore the weights and the selection each have an error of their own. A gradient norm is the product of
// the weight, the norm per row s_e and the number of rows n_e: G_e = w_e s_e n_e.
//   weights   move against  log(w_e s_e / r_e^alpha): experts should learn at one rate per row, and
//             faster where their loss lags;
//   selection moves against w_e s_e n_e / mean - r_e^alpha: once the rates are even, only the load is left.
// If both errors are zero, n_e is the same for every expert, for any alpha. s_e is a running mean, so that
// the gradient of a single batch does not move tokens. Because s_e is known before a batch is sent, so are
// the expected norms; the selection is therefore corrected several times for each batch before its tokens
// leave. The factor that is kept from step to step follows the loads as they would be without these
// corrections.
//
// The selection is multiplied, probability * exp(b_e), instead of added to. A router that has become sure
// gives most experts probabilities near 0, where a bias of 0.01 moves either every token or none; a factor
// moves as many tokens at any scale.
//
// Inference has a selection of its own, the same for every batch, so that a decision depends only on its own
// text, unless a recipe asks for even loads within every batch of inference. Inference runs without dropout
// and with averaged weights, which shifts the loads; calibrate() corrects for that before each evaluation. (A
// checkpoint written between two evaluations has the selection of training.)
//
// Stability: a step moves b_e by a share `rate` of what would remove its error, which is clipped to [-1, 1].
// |b_e| is at most kMostBias, and w_e is within [1 / kMostWeight, kMostWeight] after scaling to a mean of 1.
// The error falls as n_e falls, and n_e falls as b_e falls. For an expert without rows there is no s_e to
// measure: its w_e stays as it is and its error is -r_e^alpha, so b_e rises in every step until tokens come.
#pragma once

#include "parallel/moe/balancer.h"

namespace conclave {

class GradNormBalancer final : public Balancer {
 public:
  static constexpr double kMostWeight = 4, kMostBias = 8;

  GradNormBalancer(Index experts, const BalancerOptions& options);

  kernels::Selection selection() const override { return {{}, factor_}; }
  kernels::Selection select_batch(const CountLoad& count, bool training) override;
  bool corrects_batches() const override { return true; }
  bool wants_gradients() const override { return true; }
  std::span<const double> gradient_weights() const override { return weights_.span<double>(); }
  void update(const ExpertSignals& signals) override;
  bool calibrates() const override { return moves_selection_; }
  void calibrate(std::span<const Index> load, Index number) override;
  void restart() override;
  std::vector<State> state() const override;

 private:
  double rate_, alpha_, response_ = 1;  // response_: log factor per log load, measured on the last batch
  Index rounds_;
  bool moves_weights_, moves_selection_;
  Tensor factor_;                     // [experts] f32, exp(b) for inference
  Tensor training_factor_;            // [experts] f32, exp(b) for training, kept from step to step
  Tensor batch_factor_;               // [experts] f32, corrected for the current batch
  Tensor weights_;                    // [experts] f64, w
  Tensor intensity_;                  // [experts] f64, s divided by the layer's mean; 0: not measured yet
  Tensor loss_;                       // [experts] f64, running mean; 0: not measured yet
  Tensor first_loss_;                 // [experts] f64
  Tensor target_;                     // [experts] f64, r^alpha divided by its mean
  std::vector<Index> wished_, load_;  // rows in this step with training_factor_ alone; rows of a batch
  std::vector<double> error_, step_;  // errors and steps of the last correction for a batch
};

}  // namespace conclave

// Balance by gradient normalization, after GradNorm (Chen et al. 2018, arXiv:1711.02257) with the experts of
// a layer as its tasks.
//
// The plain formula takes G_e = |w_e dL/dtheta_e|, the target T_e = mean(G) r_e^alpha, where r_e is how much
// of its first loss an expert still has, relative to the others', and moves both the weight w_e and the
// selection against G_e - T_e. That does not balance: the weights alone can make every G_e equal its target,
// whatever the loads, and then the error that should move tokens is gone. (Under AdamW, which divides a
// gradient by its own size, they do so without changing what is learnt.)
//
// So the two are given an error each. A gradient's norm is one row's share of it times the rows,
// G_e = w_e s_e n_e:
//   weights   move against  log(w_e s_e / r_e^alpha): experts are to learn at one rate per row, and
//             faster where their loss lags;
//   selection moves against w_e s_e n_e / mean - r_e^alpha: what is left once the rates are even is the load.
// Where both errors are zero, n_e is the same for every expert, for any alpha. s_e is a running mean, so that
// one batch's gradient does not move tokens. Since s_e is known before a batch is sent, the norms to be
// expected of it are, too; so the selection is corrected for the batch, a few times over, before its tokens
// leave. What lasts from step to step follows the loads as they would have been without the correction.
//
// The selection is multiplied, probability * exp(b_e), rather than added to: a router that has become sure
// gives most experts probabilities near 0, where a bias of 0.01 moves every token or none; a factor moves as
// many tokens at any scale.
//
// Inference has a selection of its own, which is the same for every batch, so that a decision depends on
// nothing but its own text; unless a recipe asks for even loads in every batch there, too. Texts are seen
// there without dropout and by averaged weights, which shifts loads; calibrate() makes up for it, before each
// evaluation (a checkpoint between two has training's selection).
//
// Stable: a step moves b_e by a share `rate` of what would remove its error, which is cut to [-1, 1]; |b_e|
// is at most kMostBias and w_e within [1 / kMostWeight, kMostWeight] after being scaled to a mean of 1; the
// error falls as n_e does, and n_e falls as b_e does. An expert without rows has no s_e to measure: its w_e
// stays as it is, and its error is -r_e^alpha, so that b_e rises in every step until tokens come.
#pragma once

#include "parallel/moe/balancer.h"

namespace conclave {

class GradNormBalancer final : public Balancer {
 public:
  static constexpr double kMostWeight = 4, kMostBias = 8;

  GradNormBalancer(Index experts, const BalancerOptions& options);

  kernels::Selection selection() const override { return {{}, factor_}; }
  kernels::Selection select_batch(const CountLoad& count, bool training) override;
  bool wants_gradients() const override { return true; }
  std::span<const double> gradient_weights() const override { return weights_.span<double>(); }
  void update(const ExpertSignals& signals) override;
  bool calibrates() const override { return moves_selection_; }
  void calibrate(std::span<const Index> load, Index number) override;
  std::vector<State> state() const override;

 private:
  double rate_, alpha_, response_ = 1;  // the last: log factor per log load, as the last batch had it
  Index rounds_;
  bool moves_weights_, moves_selection_;
  Tensor factor_;                     // [experts] f32, exp(b) in inference
  Tensor training_factor_;            // [experts] f32, in training, from step to step
  Tensor batch_factor_;               // [experts] f32, for one batch
  Tensor weights_;                    // [experts] f64, w
  Tensor intensity_;                  // [experts] f64, s over the layer's mean; 0: not measured yet
  Tensor loss_;                       // [experts] f64, running mean; 0: likewise
  Tensor first_loss_;                 // [experts] f64
  Tensor target_;                     // [experts] f64, r^alpha over its mean
  std::vector<Index> wished_, load_;  // rows by training_factor_ alone, of this step; rows of a batch
  std::vector<double> error_, step_;  // of the last correction for a batch
};

}  // namespace conclave

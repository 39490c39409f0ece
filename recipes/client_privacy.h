// Differentially private rounds, the unit being a client (DP-FedAvg; McMahan et al. 2018, arXiv:1710.06963):
// in each round every client takes part with the same probability, by itself; its update is clipped to a
// norm; noise is added to the sum of them, and that over the expected number of clients is the round's
// update. Each update is rounded to the noise's grid before it is added, so that the sum is one of integers:
// exact, whoever adds it up.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "federated/privacy/noisy_sum.h"
#include "federated/random_source.h"
#include "recipes/federation.h"

namespace conclave {

class ClientPrivacy {
 public:
  /// Of a model of `elements`. `random` must outlive it. Throws Error where there is no noise that keeps
  /// within the budget, or no round does.
  ClientPrivacy(const ClientPrivacyTable& privacy, const SimulationTable& simulation, std::size_t elements,
                RandomSource& random);

  double sampling_rate() const { return rate_; }
  double noise_multiplier() const { return noise_; }
  double clip_norm() const { return updates_.bound; }  ///< of the round to come
  /// Of the rounds that were to be, those that the budget allows.
  std::int64_t rounds() const { return rounds_; }
  /// What so many rounds spend, with the settings' delta.
  double epsilon(std::int64_t rounds) const;

  /// Draws a round's clients, in place of what `cohort` had.
  void draw(std::vector<std::int64_t>& cohort);

  /// Adds to `sums` [elements + 1], at `offset`, a part of an update by `factor`; they are whole numbers of
  /// grid steps.
  void add(std::span<const float> update, double factor, std::span<double> sums) const;
  /// What an update of such a squared norm is to be multiplied with; tells `count`, the last of the sums, as
  /// well.
  double clip(double norm_squared, double& count) const;

  /// Adds noise to elements [first, end) of the sums [elements + 1]. Once each has had its noise, and the
  /// ranks' sums are added up, they may be seen.
  void add_noise(std::span<double> sums, std::size_t first, std::size_t end);
  /// update [elements]: the mean, of sums [elements + 1] with noise. Where adaptive, the clip norm moves.
  void release(std::span<const double> sums, std::span<float> update);

 private:
  ClientPrivacyTable privacy_;
  RandomSource& random_;
  RandomBits bits_;
  std::int64_t clients_, rounds_;
  double expected_, rate_, noise_ = 0;
  NoisySum updates_, count_;
};

}  // namespace conclave

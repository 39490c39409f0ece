// Differentially private rounds with a client as the unit (DP-FedAvg; McMahan et al. 2018, arXiv:1710.06963).
// In each round every client takes part independently with the same probability. Its update is clipped to a
// norm, and noise is added to the sum of the updates. The sum divided by the expected number of clients is
// the round's update. Each update is rounded to the noise's grid before it is added, so all sums are sums of
// integers: exact, in whatever order they are added.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "federated/privacy/noisy_sum.h"
#include "federated/random_source.h"
#include "recipes/settings/federation.h"

namespace conclave {

class ClientPrivacy {
 public:
  /// For a model of `elements`. `random` must outlive the object. Throws Error if no noise keeps within the
  /// budget, or if the budget does not allow a single round.
  ClientPrivacy(const ClientPrivacyTable& privacy, const SimulationTable& simulation, std::size_t elements,
                RandomSource& random);

  double sampling_rate() const { return rate_; }
  double noise_multiplier() const { return noise_; }
  double clip_norm() const { return updates_.bound; }  ///< of the next round
  /// Rounds that the budget allows, at most those of the settings.
  std::int64_t rounds() const { return rounds_; }
  /// Epsilon that this many rounds spend, with the settings' delta.
  double epsilon(std::int64_t rounds) const;

  /// Replaces `cohort` by the clients drawn for a round.
  void draw(std::vector<std::int64_t>& cohort);

  /// Adds update x factor, rounded to whole grid steps, to the elements of `sums` that belong to `update`.
  void add(std::span<const float> update, double factor, std::span<double> sums) const;
  /// Returns the factor that clips an update with this squared norm. Where adaptive, also adds to `count`,
  /// the last of the sums, whether the update is within the norm.
  double clip(double norm_squared, double& count) const;

  /// Adds noise to elements [first, end) of the sums [elements + 1]. The sums may be seen only once each
  /// element has its noise and the ranks' sums are added up.
  void add_noise(std::span<double> sums, std::size_t first, std::size_t end);
  /// update [elements]: the mean, from the noisy sums [elements + 1]. Where adaptive, also moves the clip
  /// norm.
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

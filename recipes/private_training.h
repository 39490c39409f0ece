// Differentially private training, the unit being a record (DP-SGD; Abadi et al. 2016, arXiv:1607.00133): in
// each step every training example takes part with the same probability, by itself; its gradient is clipped
// to a norm; noise is added to the sum of them, and that over the expected number of examples is the step's
// gradient. Or the unit is a client, to whom several records belong (as in McMahan et al. 2018, DP-FedSGD):
// then clients take part, each with all that it has, by the mean of its examples' gradients, each of which is
// clipped: so that mean is no longer than the norm, however many they are, and no client's gradient is needed
// by itself.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "autograd/example_gradients.h"
#include "autograd/nn/parameter_set.h"
#include "data/dynamic_batcher.h"
#include "federated/privacy/accountant.h"
#include "federated/privacy/noisy_sum.h"
#include "federated/random_source.h"
#include "parallel/process_grid.h"
#include "recipes/recipe.h"

namespace conclave {

class PrivateTraining {
 public:
  /// Of the examples in `train`, for `steps` steps if the budget allows them. `random`, and the grid, must
  /// outlive it. Throws Error where there is no noise that keeps within the budget, it is for another device,
  /// or nobody says whose the examples are where the unit is a client.
  PrivateTraining(const PrivacyRecipe& recipe, const TokenizedSplit& train, std::int64_t steps,
                  const ProcessGrid& grid, RandomSource& random);

  static std::int64_t steps_per_epoch(const PrivacyRecipe& recipe, const TokenizedSplit& train);

  /// Examples, or clients that have some.
  std::int64_t units() const { return units_; }
  /// Those in a step, on average.
  double batch() const { return expected_; }
  double sampling_rate() const { return rate_; }
  double noise_multiplier() const { return noise_; }
  /// Of the steps that were to be, those that the budget allows.
  std::int64_t steps() const { return steps_; }
  /// So many steps.
  PrivacyEvent event(std::int64_t steps) const { return {noise_, rate_, steps}; }
  /// What they spend, with the recipe's delta; infinity where there is no noise to speak of.
  double epsilon(std::int64_t steps) const;
  /// Those released so far.
  std::int64_t released() const { return released_; }
  /// So many were before this run.
  void go_on_from(std::int64_t released) { released_ = released; }

  /// Draws a step's examples and calls each(batch) for them, of as many at a time as memory was planned for.
  /// `number` is the step's, by which images are changed at random. Collective.
  void for_batches(const DynamicBatcher& batcher, std::int64_t number,
                   const std::function<void(const Batch&)>& each);
  /// After the backward pass of such a batch: adds the clipped gradients of its examples to the parameters'.
  /// Collective.
  void add_clipped(ExampleGradients& gradients);
  /// Once these are summed over the ranks: makes them the step's gradient. Collective; every rank has the
  /// same bits. Throws Error, and releases nothing, where that is a step more than steps().
  void release(const ParameterSet& parameters);
  /// What release() adds to their gradients. Throws Error where there can be no such noise.
  SumNoise noise_of(const ParameterSet& parameters) const;

 private:
  PrivacyRecipe recipe_;
  const ProcessGrid& grid_;
  RandomSource& random_;
  RandomBits bits_;
  std::vector<std::vector<std::int64_t>> examples_of_;  // [clients], or none
  std::int64_t units_;
  double expected_, rate_, noise_ = 0;
  std::int64_t steps_, released_ = 0;
  std::vector<std::int64_t> drawn_, examples_;  // units of a step, and all their examples
  std::vector<double> one_over_;                // [examples] the number of its client's, or none
  std::vector<double> shares_;                  // those of a batch, over all ranks
  std::vector<double> factors_;
  std::vector<std::int64_t> counts_;  // of all ranks: sequences, rows, images, and examples to come
  Batch batch_;
};

}  // namespace conclave

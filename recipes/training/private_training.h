// Differentially private training with a record as the unit (DP-SGD; Abadi et al. 2016, arXiv:1607.00133). In
// each step every training example takes part independently with the same probability. Its gradient is
// clipped to a norm, and noise is added to the sum of the gradients. The sum divided by the expected number
// of examples is the step's gradient. The unit may also be a client, which has several records (as in McMahan
// et al. 2018, DP-FedSGD). Then clients are drawn, and each contributes the mean of its examples' clipped
// gradients. That mean is within the norm for any number of examples, so no client's gradient is needed by
// itself.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/example_gradients.h"
#include "autograd/nn/parameter_set.h"
#include "data/dynamic_batcher.h"
#include "federated/privacy/accountant.h"
#include "federated/privacy/noisy_sum.h"
#include "federated/random_source.h"
#include "parallel/process_grid.h"
#include "recipes/settings/recipe.h"

namespace conclave {

/// A seed that nobody knows, because it is stored nowhere; the same on every rank. Collective.
std::uint64_t secret_seed(Communicator& world, RandomSource& random);

class PrivateTraining {
 public:
  /// Trains on the examples in `train` for `steps` steps, or as many as the budget allows. `random` and the
  /// grid must outlive the object. Throws Error if no noise keeps within the budget, if the device is not the
  /// CPU, or if the unit is a client and the data does not say which examples belong to which client.
  PrivateTraining(const PrivacyRecipe& recipe, const TokenizedSplit& train, std::int64_t steps,
                  const ProcessGrid& grid, RandomSource& random);

  static std::int64_t steps_per_epoch(const PrivacyRecipe& recipe, const TokenizedSplit& train);

  /// The number of units: examples, or clients with examples.
  std::int64_t units() const { return units_; }
  /// The expected number of units in a step.
  double batch() const { return expected_; }
  double sampling_rate() const { return rate_; }
  double noise_multiplier() const { return noise_; }
  /// Steps that the budget allows, at most those asked for.
  std::int64_t steps() const { return steps_; }
  /// The event of so many steps, for an accountant.
  PrivacyEvent event(std::int64_t steps) const { return {noise_, rate_, steps}; }
  /// Epsilon that this many steps spend, with the recipe's delta; infinity if the noise is negligible.
  double epsilon(std::int64_t steps) const;
  /// Steps released so far.
  std::int64_t released() const { return released_; }
  /// Sets how many steps were released before this run, and their name(); "" if they have none.
  void go_on_from(std::int64_t released, const std::string& name = "") {
    released_ = released;
    name_ = name;
  }
  /// A name for all steps released so far, by which a ledger recognizes them: that of go_on_from(), else a
  /// random one. The same on every rank. Collective.
  const std::string& name();

  /// Draws a step's examples and calls each(batch) for them, in batches for which memory was planned.
  /// `seed` is for random changes to images. Nobody may know it, and no other step may have it: the changes
  /// depend on an image's index, which one example more or less would move. Collective.
  void for_batches(const DynamicBatcher& batcher, std::uint64_t seed,
                   const std::function<void(const Batch&)>& each);
  /// After the backward pass of such a batch: adds its examples' clipped gradients to the parameters'
  /// gradients. Collective.
  void add_clipped(ExampleGradients& gradients);
  /// Once the gradients are summed over the ranks: makes them the step's gradient, with noise. Collective;
  /// every rank gets the same bits. Throws Error, and releases nothing, if this would be more than steps().
  void release(const ParameterSet& parameters);
  /// The noise that release() adds to the gradients. Throws Error if such noise cannot be drawn.
  SumNoise noise_of(const ParameterSet& parameters) const;

 private:
  PrivacyRecipe recipe_;
  const ProcessGrid& grid_;
  RandomSource& random_;
  RandomBits bits_;
  std::vector<std::vector<std::int64_t>> examples_of_;  // [clients]; empty if the unit is an example
  std::int64_t units_;
  double expected_, rate_, noise_ = 0;
  std::int64_t steps_, released_ = 0;
  std::string name_;                            // see name(); "" until it is drawn
  std::vector<std::int64_t> drawn_, examples_;  // units of a step, and their examples
  // [examples]: 1 / (examples of the same client); empty if the unit is an example
  std::vector<double> one_over_;
  std::vector<double> shares_;  // one_over_ for a batch's examples, over all ranks
  std::vector<double> factors_;
  std::vector<std::int64_t> counts_;  // of each rank: sequences, rows, images, and examples still to come
  Batch batch_;
};

}  // namespace conclave

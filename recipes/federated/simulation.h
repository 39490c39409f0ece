// A federation of simulated clients in one job. The ranks divide a round's clients among themselves, and each
// rank trains its clients one after another on its own copy of the model. A federation's strategies and
// privacy turn the updates into the next model. The ranks add up their sums once per round.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "federated/policy.h"
#include "federated/strategies/strategy.h"
#include "parallel/checkpoint/checkpoint_writer.h"
#include "recipes/evaluation/evaluator.h"
#include "recipes/federated/client_privacy.h"
#include "recipes/federated/client_training.h"

namespace conclave {

struct SimulatedRound {
  double loss = 0;            ///< mean over the examples while the clients train on them; it has no noise
  std::int64_t clients = 0;   ///< that took part
  std::int64_t diverged = 0;  ///< clients whose update was not finite; it is left out
  double seconds = 0;
  double clip_norm = 0;      ///< of this round; 0 without privacy
  bool interrupted = false;  ///< then nothing has changed
};

class Simulation {
 public:
  /// Collective. `grid`, of all ranks, and `random` must outlive the object. Throws Error if simulated
  /// clients cannot train the recipe or the strategy needs more than their mean update, and what
  /// ClientPrivacy throws.
  Simulation(const SimulationSettings& settings, const Recipe& recipe, const ProcessGrid& grid,
             const std::string& cache_directory, RandomSource& random);

  /// Collective; the same result on all ranks. Setting `stop`, where not null, ends the round early.
  SimulatedRound round(const std::atomic<bool>* stop = nullptr);
  std::int64_t rounds_done() const { return done_; }
  /// Rounds that the budget allows, at most those of the settings.
  std::int64_t rounds() const { return privacy_ ? privacy_->rounds() : settings_.simulation.rounds; }

  /// Null without privacy.
  const ClientPrivacy* privacy() const { return privacy_.get(); }
  /// JSON: what the model that the simulation started from had spent; see federated/privacy/privacy_marks.h.
  const std::string& privacy_before() const { return privacy_before_; }
  std::size_t elements() const { return global_.size(); }
  std::int64_t training_examples() const { return splits().train.size(); }
  std::int64_t clients_with_examples() const;

  /// Collective; none if there are no such examples.
  std::optional<Evaluation> validate() { return evaluate(*validation_); }
  std::optional<Evaluation> test() { return evaluate(*test_); }
  /// Collective. Returns the checkpoint's path; throws Error where it could not be saved.
  std::string save();

 private:
  // What ranks add up besides the model's elements. `count` is for adaptive clipping: the updates that
  // clipping leaves alone.
  enum Item : std::size_t { count, loss, seen, weight, clients, diverged, interrupted, items };

  const TaskSplits& splits() const { return corpus_.tasks.front(); }
  std::span<const std::int64_t> examples_of(std::int64_t client) const;
  void divide();
  void draw();
  void restore();
  void add_client(std::int64_t client);
  std::optional<Evaluation> evaluate(Evaluator& evaluator);

  const SimulationSettings settings_;
  const Recipe recipe_;
  const ProcessGrid& grid_;
  ProcessGrid alone_;        // this rank by itself
  const std::string start_;  // the checkpoint to start from; "" for none
  Corpus corpus_;
  Model model_;
  ParameterSet parameters_;
  Arena activations_;
  ClientTraining training_;
  std::unique_ptr<Evaluator> validation_, test_;
  std::unique_ptr<ClientPrivacy> privacy_;
  SharingPolicy policy_;
  std::unique_ptr<Strategy> strategy_;
  std::vector<TensorEntry> entries_;
  std::string privacy_before_ = "[]";
  CheckpointWriter writer_;
  std::vector<std::int64_t> examples_, first_;  // sorted by client; [clients + 1]: where each client's
                                                // examples begin
  std::vector<std::int64_t> cohort_;
  std::vector<float> global_, update_;  // [elements], parameter after parameter
  std::vector<double> sums_;            // [elements + items]
  std::int64_t done_ = 0;
};

}  // namespace conclave

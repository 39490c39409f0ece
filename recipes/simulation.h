// A federation of virtual clients in one job: ranks share out the clients of a round, each trains its share
// of them one after another on a copy of the model of its own, and their updates become the next model by the
// strategies and the privacy that a federation has; once per round the ranks add up what they have.
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
#include "recipes/client_privacy.h"
#include "recipes/client_training.h"
#include "recipes/evaluator.h"

namespace conclave {

struct SimulatedRound {
  double loss = 0;            ///< of the clients' examples while they were learned from; it has no noise
  std::int64_t clients = 0;   ///< that took part
  std::int64_t diverged = 0;  ///< of these, those whose update was not finite, and counted as none
  double seconds = 0;
  double clip_norm = 0;      ///< with privacy: of this round
  bool interrupted = false;  ///< and then nothing has changed
};

class Simulation {
 public:
  /// Collective. `grid`, of all ranks, and `random` must outlive it. Throws Error where the recipe or the
  /// strategy is none for clients, and what ClientPrivacy does.
  Simulation(const SimulationSettings& settings, const StrategyOptions& strategy, const Recipe& recipe,
             const ProcessGrid& grid, const std::string& cache_directory, RandomSource& random);

  /// Collective; alike on all ranks. `stop`, where not null, ends a round soon.
  SimulatedRound round(const std::atomic<bool>* stop = nullptr);
  std::int64_t rounds_done() const { return done_; }
  /// Of those that were to be, those that the budget allows.
  std::int64_t rounds() const { return privacy_ ? privacy_->rounds() : settings_.simulation.rounds; }

  /// Null without.
  const ClientPrivacy* privacy() const { return privacy_.get(); }
  std::size_t elements() const { return global_.size(); }
  std::int64_t training_examples() const { return splits().train.size(); }
  std::int64_t clients_with_examples() const;

  /// Collective; nothing where there are no such examples.
  std::optional<Evaluation> validate() { return evaluate(*validation_); }
  std::optional<Evaluation> test() { return evaluate(*test_); }
  /// Collective. Returns the checkpoint's path; throws Error where it could not be saved.
  std::string save();

 private:
  // Beside the model's elements, and the count of those that clipping leaves alone, what ranks add up.
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
  ProcessGrid alone_;        // of this rank
  const std::string start_;  // the checkpoint that it begins with; "" for none
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
  CheckpointWriter writer_;
  std::vector<std::int64_t> examples_, first_;  // by client; [clients + 1] where each one's begin
  std::vector<std::int64_t> cohort_;
  std::vector<float> global_, update_;  // [elements], parameter after parameter
  std::vector<double> sums_;            // [elements + items]
  std::int64_t done_ = 0;
};

}  // namespace conclave

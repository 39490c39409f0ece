// How good is a model at a task on a split, and which expert serves whom.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "recipes/class_counts.h"
#include "recipes/corpus.h"
#include "recipes/domain_routing.h"
#include "recipes/measures/glue.h"
#include "recipes/models/model.h"

namespace conclave {

struct Evaluation {
  double loss = 0;  ///< mean over the task's guesses: of classes and tokens cross-entropy, in nats
  std::optional<double> accuracy;  ///< share of guesses that are right; none where no guess is right or wrong
  /// Of classes: mean of 2 tp / (2 tp + fp + fn) over those that have examples or predictions.
  std::optional<double> macro_f1;
  std::vector<ClassCount> classes;  ///< as above, of each class; none where the task is another
  std::vector<Measure> measures;    ///< others that the data's own judges take: GLUE's
  Index sequences = 0, tokens = 0;
  double seconds = 0;
  /// How evenly the experts are used: mean load / largest load, a mean over the layers; 1 without MoE layers.
  double utilization = 1;        ///< of the loads of the whole split
  double batch_utilization = 1;  ///< of each global batch's loads, a mean over the batches too
  /// [layer][expert * classes + class]: routed tokens of texts of that class, over all ranks.
  std::vector<std::vector<Index>> expert_classes;
  std::vector<Index>
      experts_per_token;  ///< [top_k + 1]: tokens that went to so many experts, over all uses of MoE layers
  std::vector<DomainRouting> domain;  ///< [layer]; empty where no text of the split is of the domain

  std::optional<double> image_weight;  ///< as Task::image_weight
  /// [layer][expert]: of the rows that it received, the share that are images'; empty where none or all are.
  std::vector<std::vector<double>> image_share;

  double route_hit_rate = 0;  ///< of the routing caches, over all layers and ranks; 0 without

  /// Mean of experts_per_token; 0 without MoE layers.
  double mean_experts() const;
};

/// Sees this rank's share of a batch and, per MoE layer, where its tokens went, as MoeLayer::chosen_experts
/// says.
using BatchVisitor = std::function<void(const Batch& batch, std::span<const Tensor> chosen_experts)>;

class Evaluator {
 public:
  /// Collective. All arguments but the recipe, of which the batches' budget is, must outlive the evaluator,
  /// which resets `activations` for every batch. `shuffle`: the seed of the batches' order; else by length.
  Evaluator(Model& model, Task& task, const TokenizedSplit& split, const Recipe& recipe, Arena& activations,
            const ProcessGrid& grid, std::optional<std::uint64_t> shuffle = std::nullopt);

  /// One forward pass of the largest batch, so that the arena sees its size.
  void plan();
  /// Collective; the same result on every rank.
  Evaluation run(const BatchVisitor& visit = {});
  /// Collective. Runs the first `batches` and tells balancers that want it what each expert received;
  /// `after_each`, where given, is called after each.
  void calibrate(Index batches, const std::function<void()>& after_each = {});

 private:
  // In host memory.
  struct Results {
    Tensor losses, correct, logits;      // as the task's; undefined likewise
    std::vector<Tensor> chosen_experts;  // by layer
  };

  TaskOutput forward(Tape& tape, const Batch& batch, bool calibrating = false);
  using Layers = std::vector<std::pair<std::string, MoeLayer*>>;
  static Results copies_of(Tape& tape, const TaskOutput& output, const Layers& layers);

  Model& model_;
  Task& task_;
  const TokenizedSplit& split_;
  Index classes_;
  std::string glue_task_;  // "": the data are not GLUE's
  Arena& activations_;
  const ProcessGrid& grid_;
  DynamicBatcher batcher_;
  Batch batch_;
  bool empty_;
};

}  // namespace conclave

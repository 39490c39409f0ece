// Evaluates a model at a task on a split, and counts which experts serve which classes.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "recipes/corpus/corpus.h"
#include "recipes/evaluation/class_counts.h"
#include "recipes/evaluation/domain_routing.h"
#include "recipes/measures/glue.h"
#include "recipes/models/model.h"

namespace conclave {

struct Evaluation {
  double loss = 0;  ///< mean over the task's guesses; for classes and tokens the cross-entropy, in nats
  std::optional<double> accuracy;  ///< share of right guesses; none where guesses cannot be right or wrong
  /// For classes: mean of 2 tp / (2 tp + fp + fn) over those with examples or predictions.
  std::optional<double> macro_f1;
  std::vector<ClassCount> classes;  ///< counts of each class; empty for other tasks
  std::vector<Measure> measures;    ///< further metrics that the data set defines, such as GLUE's
  Index sequences = 0, tokens = 0;
  double seconds = 0;
  /// Mean load / largest load of a layer's experts, a mean over the layers; 1 without MoE layers.
  double utilization = 1;        ///< from the loads of the whole split
  double batch_utilization = 1;  ///< from each global batch's loads, a mean over the batches
  /// [layer][expert * classes + class]: routed tokens of texts of that class, over all ranks.
  std::vector<std::vector<Index>> expert_classes;
  std::vector<Index> experts_per_token;  ///< [top_k + 1]: tokens by the number of experts they went to, over
                                         ///< all uses of MoE layers
  std::vector<DomainRouting> domain;     ///< [layer]; empty if no text of the split is of the domain

  std::optional<double> image_weight;  ///< as Task::image_weight
  /// [layer][expert]: share of image rows among the rows it received; empty if none or all of the rows are.
  std::vector<std::vector<double>> image_share;

  double route_hit_rate = 0;  ///< of the routing caches, over all layers and ranks; 0 without caches

  /// Mean of experts_per_token; 0 without MoE layers.
  double mean_experts() const;
};

/// Is called with this rank's share of a batch and, for each MoE layer, the experts of its tokens as
/// MoeLayer::chosen_experts returns them.
using BatchVisitor = std::function<void(const Batch& batch, std::span<const Tensor> chosen_experts)>;

class Evaluator {
 public:
  /// Collective. All arguments but the recipe must outlive the evaluator; the recipe gives the batches' size,
  /// and its [data] says where the split is from, because GLUE has measures of its own. The evaluator resets
  /// `activations` for every batch. `shuffle`: the seed of the batches' order; without it, batches are
  /// ordered by length.
  Evaluator(Model& model, Task& task, const TokenizedSplit& split, const Recipe& recipe, Arena& activations,
            const ProcessGrid& grid, std::optional<std::uint64_t> shuffle = std::nullopt);

  /// Runs one forward pass of each of the largest batches, so that the arena sees their size.
  void plan();
  /// Collective; the same result on every rank.
  Evaluation run(const BatchVisitor& visit = {});
  /// Collective. Runs the first `batches` and gives the experts' loads to the balancers that calibrate.
  void calibrate(Index batches);
  /// Collective. Runs one batch, for observers of the layers' inputs, and changes nothing else. False if the
  /// split has no batch of this number.
  bool observe(Index batch);

 private:
  // Copies in host memory.
  struct Results {
    Tensor losses, correct, logits;      // as in TaskOutput; undefined where those are
    std::vector<Tensor> chosen_experts;  // by layer
  };

  TaskOutput forward(Tape& tape, const Batch& batch, bool calibrating = false);
  // The same for a batch of the split; waits for the device.
  void forward(Tape& tape, Index batch, bool calibrating);
  using Layers = std::vector<std::pair<std::string, MoeLayer*>>;
  static Results copies_of(Tape& tape, const TaskOutput& output, const Layers& layers);

  Model& model_;
  Task& task_;
  const TokenizedSplit& split_;
  Index classes_;
  std::string glue_task_;  // "" if the data is not GLUE's
  Arena& activations_;
  const ProcessGrid& grid_;
  DynamicBatcher batcher_;
  Batch batch_;
  bool empty_;
};

}  // namespace conclave

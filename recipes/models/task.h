// A task that a model is trained and evaluated on: a head on the trunk that all tasks share, and its loss.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "autograd/nn/layers.h"
#include "recipes/models/trunk.h"
#include "recipes/settings/task_kind.h"

namespace conclave {

struct TaskOutput {
  static constexpr std::size_t kMostTerms = 3;
  /// Losses to minimize, and their weight in the step.
  struct Term {
    Tensor losses;
    double weight = 0;
  };

  /// By which the task is evaluated: one per guess (a class, a token, an image).
  Tensor losses;
  Tensor correct;  ///< [as losses] u8, 1 for right guesses; undefined if guesses cannot be right or wrong
  Tensor sequence_losses;  ///< [sequences]: the mean over each example's losses
  Tensor logits;           ///< [sequences, classes] of a classifier; else undefined
  Tensor features;         ///< [sequences, width] of a classifier: the input of its head; else undefined

  /// Every term with its weight, as Tape::backward() takes them.
  struct Losses {
    std::array<Tape::Loss, kMostTerms> of_terms;
    std::size_t count = 0;
    operator std::span<const Tape::Loss>() const { return {of_terms.data(), count}; }
  };
  /// Divides each weight by `parts`, the number of batches whose gradients are summed.
  Losses losses_of_terms(Tape& tape, double parts = 1) const;

  std::span<const Term> terms() const { return {terms_.data(), count_}; }
  void add(const Tensor& term, double weight) { terms_.at(count_++) = {term, weight}; }

 private:
  std::array<Term, kMostTerms> terms_;
  std::size_t count_ = 0;
};

class Task : public Module {
 public:
  explicit Task(TaskKind kind) : kind_(kind) {}

  TaskKind kind() const { return kind_; }
  std::string_view name() const { return name_of(kind_); }
  /// Rows of the trunk for each image in this task's batches.
  virtual Index image_tokens() const = 0;
  /// Whether [image]'s random changes apply in training; not to images that the task draws.
  virtual bool augments() const { return true; }
  /// Without context.training nothing is random, and there are no terms. Collective over the expert-parallel
  /// group.
  virtual TaskOutput operator()(Tape& tape, ForwardContext& context, const ModelInput& input) = 0;

  /// The image's weight, of 1 for image and text together, if the task weights the two; else none.
  virtual std::optional<double> image_weight() const { return std::nullopt; }

  /// Of all parts that process an example, with a text of this many tokens if the task has texts.
  virtual std::vector<Cost> costs(Index tokens) const = 0;
  /// The sum of costs(); `extent` is the text's.
  double flops(Extent& extent) const override;

 protected:
  /// Throws Error if an example has no image.
  void expect_images(const ModelInput& input) const;
  /// losses [n] -> [sequences]: their means over segments of `offsets` [sequences + 1] i32, in host memory.
  static Tensor sequence_means(Tape& tape, const Tensor& losses, const Tensor& offsets);

 private:
  TaskKind kind_;
};

}  // namespace conclave

// Something that a model is trained to do, and judged by: a head on the trunk that all tasks share, and its
// loss.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "autograd/nn/layers.h"
#include "recipes/models/trunk.h"

namespace conclave {

struct TaskOutput {
  static constexpr std::size_t kMostTerms = 3;
  /// Losses to go down, each counting `weight` in the step.
  struct Term {
    Tensor losses;
    double weight = 0;
  };

  /// Of what the task is judged by: one for each of what it guesses (a class, a token, an image).
  Tensor losses;
  Tensor correct;  ///< [as losses] u8, which guesses are right; undefined where none is right or wrong
  Tensor sequence_losses;  ///< [sequences]: their means over each example
  Tensor logits;           ///< [sequences, classes] of a classifier; else undefined
  Tensor features;         ///< [sequences, width] likewise: what its head sees of an example

  /// What Tape::backward() takes, of every term with its weight.
  struct Losses {
    std::array<Tape::Loss, kMostTerms> of_terms;
    std::size_t count = 0;
    operator std::span<const Tape::Loss>() const { return {of_terms.data(), count}; }
  };
  /// Each weight is divided by `parts`, of which this is one.
  Losses losses_of_terms(Tape& tape, double parts = 1) const;

  std::span<const Term> terms() const { return {terms_.data(), count_}; }
  void add(const Tensor& term, double weight) { terms_.at(count_++) = {term, weight}; }

 private:
  std::array<Term, kMostTerms> terms_;
  std::size_t count_ = 0;
};

class Task : public Module {
 public:
  /// "classify", "caption" or "generate".
  explicit Task(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  /// Rows of the trunk that an image of this task's batches stands for.
  virtual Index image_tokens() const = 0;
  /// Whether images may be changed at random in training, as [image] says: those that it draws may not.
  virtual bool augments() const { return true; }
  /// Without context.training, nothing is random, and there are no terms. Collective over the expert-parallel
  /// group.
  virtual TaskOutput operator()(Tape& tape, ForwardContext& context, const ModelInput& input) = 0;

  /// Where it weighs an example's image and text, the image's weight, of 1 for both; else none.
  virtual std::optional<double> image_weight() const { return std::nullopt; }

  /// Of all parts that have to do with an example, whose text, where it has one, is of so many tokens.
  virtual std::vector<Cost> costs(Index tokens) const = 0;
  /// Their sum; `extent` is that of the text.
  double flops(Extent& extent) const override;

 protected:
  /// Throws Error where an example has none.
  void expect_images(const ModelInput& input) const;
  /// losses [n] -> [sequences]: their means over segments of `offsets` [sequences + 1] i32, in host memory.
  static Tensor sequence_means(Tape& tape, const Tensor& losses, const Tensor& offsets);

 private:
  std::string name_;
};

}  // namespace conclave

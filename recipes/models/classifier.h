// Text, image or both in, class out: mean and maximum over each example's rows of the trunk, and a linear
// head. Image and text are one sequence, or a Fusion combines them. A recipe may add a linear model of the
// texts' bigrams, and the prediction of tokens that token dropout hid.
#pragma once

#include <memory>
#include <string>

#include "recipes/models/fusion.h"
#include "recipes/models/task.h"
#include "recipes/models/token_head.h"
#include "recipes/models/wide_classifier.h"
#include "recipes/settings/recipe.h"

namespace conclave {

class Classifier : public Task {
 public:
  /// `trunk` must outlive it.
  Classifier(const Recipe& recipe, const ModelSizes& sizes, Trunk& trunk);

  Index image_tokens() const override { return images_ ? trunk_.image_tokens() : 0; }
  /// In training the logits are the head's alone, because the wide classifier has a loss of its own; else
  /// they are the weighted sum of both.
  TaskOutput operator()(Tape& tape, ForwardContext& context, const ModelInput& input) override;

  std::optional<double> image_weight() const override {
    return fusion_ ? fusion_->image_weight() : std::nullopt;
  }

  std::vector<Cost> costs(Index tokens) const override;

  /// The linear model beside the head, or null.
  WideClassifier* wide() { return wide_.get(); }

 private:
  struct HiddenTokens;
  HiddenTokens hide_tokens(Tape& tape, ForwardContext& context, const ModelInput& input) const;

  Trunk& trunk_;
  bool texts_, images_;  // its inputs
  ModelRecipe options_;
  double label_smoothing_, masked_weight_;
  std::int32_t unknown_token_;
  std::unique_ptr<Fusion> fusion_;  // null if all rows of an example are one sequence
  Linear head_;
  std::unique_ptr<WideClassifier> wide_;
  std::unique_ptr<TokenHead> guesses_;  // for hidden tokens; null without texts
};

}  // namespace conclave

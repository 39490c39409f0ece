// An image in, a text out: the rows of an image and the tokens after it pass the trunk as one sequence, in
// which a row sees those before it; each row from the image's last on guesses the next token, which behind
// the text's last is the end. The guesses' weight is the token embedding.
#pragma once

#include <string>

#include "recipes/models/task.h"
#include "recipes/models/token_head.h"
#include "recipes/recipe.h"

namespace conclave {

class Captioner : public Task {
 public:
  /// `trunk` must outlive it.
  Captioner(const Recipe& recipe, const ModelSizes& sizes, Trunk& trunk);

  const std::string& name() const override;
  Index image_tokens() const override { return trunk_.image_tokens(); }
  /// The losses are those of tokens, with each text's end.
  TaskOutput operator()(Tape& tape, ForwardContext& context, const ModelInput& input) override;

  std::int32_t end_token() const { return end_token_; }

  std::vector<Cost> costs(Index tokens) const override;

 private:
  Trunk& trunk_;
  TokenHead head_;
  double label_smoothing_;
  std::int32_t end_token_;
};

}  // namespace conclave

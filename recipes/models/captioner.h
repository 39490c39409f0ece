// An image in, a text out: the rows of an image and the tokens after it pass the trunk as one sequence, in
// which a row sees those before it; each row from the image's last on guesses the next token, which behind
// the text's last is the end. The guesses' weight is the token embedding.
#pragma once

#include <span>
#include <string>

#include "recipes/models/task.h"
#include "recipes/models/token_head.h"
#include "recipes/recipe.h"

namespace conclave {

class Captioner : public Task {
 public:
  /// `trunk` must outlive it.
  Captioner(const Recipe& recipe, const ModelSizes& sizes, Trunk& trunk);

  Index image_tokens() const override { return trunk_.image_tokens(); }
  /// The losses are those of tokens, with each text's end.
  TaskOutput operator()(Tape& tape, ForwardContext& context, const ModelInput& input) override;

  /// Captions token by token: memory for those of at most `captions` images, of `tokens` tokens each.
  KeyValueCache cache(Arena& arena, Index captions, Index tokens) const;
  /// Scores of each image's first token -> [images, vocabulary]; pixels [images, bytes of one] u8, in host
  /// memory, and a cache that has nothing yet. This and next() are for tapes that do not record, without
  /// context.training, and collective over the expert-parallel group.
  Tensor first(Tape& tape, ForwardContext& context, const Tensor& pixels, KeyValueCache& cache);
  /// Scores of what comes behind tokens[i], which is number `place` of a text that goes on from number
  /// parents[i] of those of the call before -> [tokens.size(), vocabulary].
  Tensor next(Tape& tape, ForwardContext& context, std::span<const std::int32_t> tokens,
              std::span<const std::int32_t> parents, Index place, KeyValueCache& cache);

  std::int32_t end_token() const { return end_token_; }

  std::vector<Cost> costs(Index tokens) const override;

 private:
  Trunk& trunk_;
  TokenHead head_;
  double label_smoothing_;
  std::int32_t end_token_;
};

}  // namespace conclave

// Image in, text out. The rows of an image and the tokens after it pass the trunk as one sequence with a
// causal mask. Each row from the image's last on predicts the next token; the text's last row predicts the
// end token. The weight of the predictions is the token embedding.
#pragma once

#include <span>
#include <string>

#include "recipes/models/task.h"
#include "recipes/models/token_head.h"
#include "recipes/settings/recipe.h"

namespace conclave {

class Captioner : public Task {
 public:
  /// `trunk` must outlive it.
  Captioner(const Recipe& recipe, const ModelSizes& sizes, Trunk& trunk);

  Index image_tokens() const override { return trunk_.image_tokens(); }
  /// Losses are per token, including each text's end token.
  TaskOutput operator()(Tape& tape, ForwardContext& context, const ModelInput& input) override;

  /// Memory for captioning token by token: at most `captions` captions of `tokens` tokens each.
  KeyValueCache cache(Arena& arena, Index captions, Index tokens) const;
  /// Scores of each image's first token -> [images, vocabulary]; pixels [images, bytes of one] u8, in host
  /// memory. `cache` must be empty. first() and next() are for tapes that do not record, without
  /// context.training, and collective over the expert-parallel group.
  Tensor first(Tape& tape, ForwardContext& context, const Tensor& pixels, KeyValueCache& cache);
  /// Scores of the token after tokens[i] -> [tokens.size(), vocabulary]. tokens[i] has index `place` in a
  /// text that continues text parents[i] of the previous call.
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

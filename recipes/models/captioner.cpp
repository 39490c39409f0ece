#include "recipes/models/captioner.h"

#include <algorithm>

namespace conclave {

Captioner::Captioner(const Recipe& recipe, const ModelSizes& sizes, Trunk& trunk)
    : Task(TaskKind::caption),
      trunk_(trunk),
      head_(sizes.vocabulary, recipe.model),
      label_smoothing_(recipe.train.label_smoothing),
      end_token_(sizes.end_token) {
  add_module("", head_);
}

TaskOutput Captioner::operator()(Tape& tape, ForwardContext& context, const ModelInput& input) {
  const Index sequences = input.sequences();
  expect_images(input);
  const Tensor images = trunk_.encode(tape, context, input.images),
               texts = trunk_.embed(tape, input.tokens, input.positions);
  trunk_.separate_experts(tape, context, input, texts.dtype());
  const Tensor x =
      trunk_.transform(tape, context, Trunk::merge(tape, images, texts, trunk_.image_tokens(), input),
                       input.offsets, kernels::AttentionMask::causal);
  tape.enter("caption");
  const Index guesses = input.tokens.size(0) + sequences;
  Arena& arena = tape.arena();
  const Tensor rows = arena.empty_on_host({guesses}, DType::i32),
               next = arena.empty_on_host({guesses}, DType::i32),
               bounds = arena.empty_on_host({sequences + 1}, DType::i32);
  const auto offsets = input.offsets.span<std::int32_t>(), text = input.text_offsets.span<std::int32_t>(),
             tokens = input.tokens.span<std::int32_t>();
  auto *row = rows.data<std::int32_t>(), *token = next.data<std::int32_t>(),
       *bound = bounds.data<std::int32_t>();
  *bound = 0;
  for (std::size_t s = 0; s < static_cast<std::size_t>(sequences); ++s) {
    const std::int32_t length = text[s + 1] - text[s];
    for (std::int32_t k = 0; k <= length; ++k) {
      *row++ = offsets[s + 1] - length - 1 + k;
      *token++ = k < length ? tokens[static_cast<std::size_t>(text[s] + k)] : end_token_;
    }
    bound[s + 1] = bound[s] + length + 1;
  }
  const Tensor logits =
      head_(tape, functions::embedding(tape, tape.on_device(rows), x), trunk_.token_table());
  const auto scored =
      functions::cross_entropy(tape, logits, tape.on_device(next), context.training ? label_smoothing_ : 0);
  TaskOutput output;
  output.losses = scored.losses;
  output.correct = scored.correct;
  output.sequence_losses = sequence_means(tape, scored.losses, bounds);
  if (context.training) {
    // the text rows of all ranks, and one more for each text's end
    const Index all =
        context.global_tokens - context.global_images * trunk_.image_tokens() + context.global_sequences;
    output.add(scored.losses, 1.0 / static_cast<double>(std::max<Index>(all, 1)));
  }
  return output;
}

KeyValueCache Captioner::cache(Arena& arena, Index captions, Index tokens) const {
  return trunk_.cache(arena, captions, trunk_.image_tokens() + tokens);
}

Tensor Captioner::first(Tape& tape, ForwardContext& context, const Tensor& pixels, KeyValueCache& cache) {
  const Index images = pixels.size(0), rows = trunk_.image_tokens();
  const Tensor numbers = tape.arena().empty_on_host({images}, DType::i32),
               last = tape.arena().empty_on_host({images}, DType::i32);
  for (Index i = 0; i < images; ++i) {
    numbers.data<std::int32_t>()[i] = static_cast<std::int32_t>(i);
    last.data<std::int32_t>()[i] = static_cast<std::int32_t>((i + 1) * rows - 1);
  }
  cache.extend(tape, numbers.span<std::int32_t>(), rows);
  const Tensor x = trunk_.transform(tape, context, trunk_.encode(tape, context, pixels), cache);
  return head_(tape, functions::embedding(tape, tape.on_device(last), x), trunk_.token_table());
}

Tensor Captioner::next(Tape& tape, ForwardContext& context, std::span<const std::int32_t> tokens,
                       std::span<const std::int32_t> parents, Index place, KeyValueCache& cache) {
  const Shape each{static_cast<Index>(tokens.size())};
  const Tensor ids = tape.arena().empty_on_host(each, DType::i32),
               places = tape.arena().empty_on_host(each, DType::i32);
  std::ranges::copy(tokens, ids.data<std::int32_t>());
  places.fill(static_cast<double>(place));
  cache.extend(tape, parents, 1);
  const Tensor x = trunk_.transform(tape, context, trunk_.embed(tape, ids, places), cache);
  return head_(tape, x, trunk_.token_table());
}

std::vector<Cost> Captioner::costs(Index tokens) const {
  std::vector<Cost> costs = trunk_.costs(tokens, true, {{1, tokens + image_tokens()}});
  Extent guesses{1, tokens + 1};
  costs.push_back({"caption", head_.parameter_count(), head_.flops(guesses)});
  return costs;
}

}  // namespace conclave

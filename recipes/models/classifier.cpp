#include "recipes/models/classifier.h"

#include <algorithm>
#include <cmath>

namespace conclave {
namespace {

std::unique_ptr<Fusion> fusion_of(const Recipe& recipe) {
  const bool both = recipe.data.has_texts() && recipe.data.has_images();
  return both && recipe.model.fusion != "joint" ? std::make_unique<Fusion>(recipe.model) : nullptr;
}

}  // namespace

Classifier::Classifier(const Recipe& recipe, const ModelSizes& sizes, Trunk& trunk)
    : Task(TaskKind::classify),
      trunk_(trunk),
      texts_(recipe.data.has_texts()),
      images_(recipe.data.has_images()),
      options_(recipe.model),
      label_smoothing_(recipe.train.label_smoothing),
      masked_weight_(recipe.train.masked_weight),
      unknown_token_(sizes.unknown_token),
      fusion_(fusion_of(recipe)),
      head_((fusion_ ? fusion_->vectors() : 1) * 2 * recipe.model.hidden, sizes.classes) {
  if (fusion_) add_module("fusion", *fusion_);
  if (texts_) {
    guesses_ = std::make_unique<TokenHead>(sizes.vocabulary, options_);
    add_module("masked_tokens", *guesses_);
  }
  add_module("head", head_);
  if (options_.bigrams > 0) {
    wide_ = std::make_unique<WideClassifier>(sizes.vocabulary, options_.bigrams, sizes.classes);
    add_module("wide", *wide_);
  }
}

// The tokens as the model sees them, and which of them are hidden.
struct Classifier::HiddenTokens {
  Tensor seen;      // [tokens] i32
  Tensor places;    // [hidden tokens] i32, numbers of rows
  Tensor original;  // [hidden tokens] i32
};

Classifier::HiddenTokens Classifier::hide_tokens(Tape& tape, ForwardContext& context,
                                                 const ModelInput& input) const {
  const RandomStream stream = context.next_stream();
  const Tensor& tokens = input.tokens;
  const double hidden_texts = images_ ? options_.text_dropout : 0;
  if (!context.training || (options_.token_dropout <= 0 && hidden_texts <= 0)) return {tokens, {}, {}};
  const double expected = options_.token_dropout * static_cast<double>(tokens.numel());
  // Memory is planned for six standard deviations more than expected, which is not exceeded in the life of a
  // cluster.
  const Index most =
      std::min(tokens.numel(), static_cast<Index>(std::ceil(expected + 6 * std::sqrt(expected))) + 16);
  Arena& arena = tape.arena();
  HiddenTokens result{arena.empty_on_host(tokens.shape(), DType::i32),
                      arena.empty_on_host({most}, DType::i32), arena.empty_on_host({most}, DType::i32)};
  const auto from = tokens.span<std::int32_t>(), to = result.seen.span<std::int32_t>();
  auto *places = result.places.data<std::int32_t>(), *original = result.original.data<std::int32_t>();
  const auto texts = input.text_offsets.span<std::int32_t>(), rows = input.offsets.span<std::int32_t>();
  Index hidden = 0;
  std::size_t sequence = 0;
  for (std::size_t i = 0; i < from.size(); ++i) {
    while (static_cast<std::size_t>(texts[sequence + 1]) <= i) ++sequence;
    const auto row = static_cast<std::size_t>(rows[sequence + 1] - texts[sequence + 1]) + i;
    const bool has_image = rows[sequence + 1] - rows[sequence] > texts[sequence + 1] - texts[sequence];
    // Random numbers of texts are indexed down from the last index, those of tokens up from 0.
    if (has_image && !tape.planning() &&
        stream.uniform(~(static_cast<std::uint64_t>(context.first_sequence) + sequence)) < hidden_texts) {
      to[i] = unknown_token_;  // the model does not predict it
      continue;
    }
    const auto global = static_cast<std::uint64_t>(context.first_token) + row;
    const bool hide =
        stream.uniform(global) < options_.token_dropout ||
        (tape.planning() && hidden < most && static_cast<Index>(from.size() - i) <= most - hidden);
    to[i] = hide ? unknown_token_ : from[i];
    if (!hide || hidden == most) continue;
    places[hidden] = static_cast<std::int32_t>(row);
    original[hidden++] = from[i];
  }
  result.places = result.places.rows(0, hidden);
  result.original = result.original.rows(0, hidden);
  return result;
}

TaskOutput Classifier::operator()(Tape& tape, ForwardContext& context, const ModelInput& input) {
  HiddenTokens tokens;
  Tensor texts, images;
  ExampleGradients* const apart = tape.example_gradients();
  if (texts_) {
    tokens = hide_tokens(tape, context, input);
    if (apart) tape.set_example_rows(apart->sequences(input.text_offsets));
    texts = trunk_.embed(tape, tokens.seen, input.positions);
  }
  if (images_) {
    if (apart) tape.set_example_rows(apart->each(input.image_sequences.span<std::int32_t>()));
    images = trunk_.encode(tape, context, input.images);
  }
  const Tensor merged = Trunk::merge(tape, images, texts, trunk_.image_tokens(), input),
               sequences = fusion_ ? Fusion::offsets(tape, input) : input.offsets;
  trunk_.separate_experts(tape, context, input, merged.dtype());
  // Sequences are numbered over all ranks; with a fusion, each example has two.
  const Index first = context.first_sequence;
  if (fusion_) context.first_sequence *= 2;
  if (apart) tape.set_example_rows(apart->sequences(input.offsets));
  Tensor x = trunk_.transform(tape, context, merged, sequences);
  context.first_sequence = first;
  if (fusion_) {
    tape.enter("fusion");
    x = fusion_->exchange(tape, context, x, sequences);
  }
  tape.enter("head");
  const Tensor offsets = tape.on_device(sequences);
  Tensor pooled = functions::concatenate(tape, functions::segment_mean(tape, x, offsets),
                                         functions::segment_max(tape, x, offsets));
  if (fusion_) pooled = fusion_->join(tape, pooled, sequences);
  pooled = apply_dropout(tape, context, pooled, Tensor(), options_.dropout, context.first_sequence);
  TaskOutput output;
  output.features = pooled;
  tape.set_example_rows(tape.one_row_each());
  output.logits = head_(tape, pooled);
  Tensor wide_scores;
  if (wide_) {
    tape.enter("wide");
    wide_scores = (*wide_)(tape, input.tokens, input.text_offsets);
    if (!context.training)
      output.logits =
          functions::add(tape, output.logits, functions::scale(tape, wide_scores, options_.bigram_weight));
  }
  const Tensor labels = tape.on_device(input.labels);
  const auto scored =
      functions::cross_entropy(tape, output.logits, labels, context.training ? label_smoothing_ : 0);
  output.losses = output.sequence_losses = scored.losses;
  output.correct = scored.correct;
  if (!context.training) return output;
  const double per_sequence = 1.0 / static_cast<double>(std::max<Index>(context.global_sequences, 1));
  output.add(scored.losses, per_sequence);
  if (wide_scores.defined()) output.add(functions::squared_hinge(tape, wide_scores, labels), per_sequence);
  if (masked_weight_ > 0 && tokens.places.defined()) {
    tape.enter("masked_tokens");
    const Tensor hidden =
        functions::embedding(tape, tape.on_device(tokens.places), x);  // rows of x by their number
    const Tensor guesses = (*guesses_)(tape, hidden, trunk_.token_table());
    // A mean over the expected number of hidden tokens, which all ranks know without communication: a share
    // of all text rows but those of texts that are hidden as a whole.
    const Index of_texts = context.global_tokens - context.global_images * image_tokens();
    const double hidden_texts = context.global_images > 0 ? options_.text_dropout : 0;
    const double expected =
        options_.token_dropout * (1 - hidden_texts) * static_cast<double>(std::max<Index>(of_texts, 1));
    output.add(functions::cross_entropy(tape, guesses, tape.on_device(tokens.original), 0).losses,
               masked_weight_ / expected);
  }
  return output;
}

std::vector<Cost> Classifier::costs(Index tokens) const {
  const Index texts = texts_ ? tokens : 0;
  const Extent image{1, image_tokens()}, text{1, texts}, both{1, texts + image_tokens()};
  std::vector<Cost> costs =
      trunk_.costs(texts, images_, fusion_ ? std::vector{image, text} : std::vector{both});
  if (fusion_) costs.push_back({"fusion", fusion_->parameter_count(), fusion_->flops(image, text)});
  Extent pooled;
  costs.push_back({"head", head_.parameter_count(), head_.flops(pooled)});
  if (guesses_) costs.push_back({"masked_tokens", guesses_->parameter_count(), 0});  // in training only
  if (wide_) costs.push_back({"wide", wide_->parameter_count(), wide_->flops(pooled)});
  return costs;
}

}  // namespace conclave

#include "recipes/inference/predictor.h"

#include <algorithm>

#include "data/image_transform.h"

namespace conclave {
namespace {

Classifier& classifier_of(LoadedModel& model) {
  Classifier* classifier = model.model().classifier();
  require(classifier != nullptr, "the model was not trained to classify; predict has no classes to tell");
  return *classifier;
}

}  // namespace

Predictor::Predictor(LoadedModel& model, const ProcessGrid& grid)
    : model_(model),
      classifier_(classifier_of(model)),
      activations_("activations", 0, grid.device()),
      alone_(grid.world().size() == 1) {}

void Predictor::add(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> pixels,
                    Batch& batch) const {
  std::ranges::copy(pixels, batch.add(tokens, 0, classifier_.image_tokens(), pixels.size()).begin());
}

void Predictor::add(const Example& example, Batch& batch) const {
  const ImageShape& shape = model_.model().sizes().image;
  TokenizedSplit text;
  if (!example.text.empty() || !example.has_image()) {
    require(model_.recipe().data.has_texts(),
            "the model classifies images alone, and predict was given {}; give it --image FILE, or a file's "
            "name on "
            "each line of standard input",
            example.text.empty() ? "no image" : "a text");
    const TextExample given = text_example(example.text, model_.tokenizer()->separator().has_value());
    text = model_.tokenizer()->encode_split(std::span(&given, 1), model_.recipe().data.max_length);
  }
  const auto tokens = text.size() > 0 ? text.sequence(0) : std::span<const std::int32_t>();
  if (!example.has_image()) return add(tokens, {}, batch);
  require(model_.recipe().data.has_images(), "{}: the model classifies texts alone, and takes no image",
          example.image);
  if (!example.pixels) return add(tokens, read_image(example.image, shape).pixels, batch);
  const ImageShape& given = example.pixels->shape;
  require(given == shape,
          "an image of {} x {} pixels in {} channels, but the model was trained on {} x {} in {}",
          given.height, given.width, given.channels, shape.height, shape.width, shape.channels);
  add(tokens, example.pixels->pixels, batch);
}

Predictor::Scores Predictor::scores(const Batch& batch) {
  activations_.reset();
  Tape tape(activations_, false);
  if (!planning_) tape.stop_planning();  // the lengths of later texts are not known
  ForwardContext context{.training = false,
                         .stream = {},
                         .first_token = batch.first_token,
                         .first_sequence = batch.first_sequence,
                         .global_tokens = batch.global_tokens,
                         .global_sequences = batch.global_sequences,
                         .global_images = batch.global_images};
  const TaskOutput output = classifier_(tape, context, model_input(batch));
  // Written in the first pass only: other threads read it.
  if (features_ == 0) features_ = output.features.size(1);
  return {tape.on_host(functions::softmax(tape, output.logits)), tape.on_host(output.features)};
}

std::size_t Predictor::plan(Index sequences, Index rows) {
  planning_ = true;
  const ModelSizes& sizes = model_.model().sizes();
  const Index image = classifier_.image_tokens(), longest = std::max<Index>(sizes.max_length, 1);
  const bool texts = model_.recipe().data.has_texts();
  const std::vector<std::int32_t> tokens(static_cast<std::size_t>(longest));
  const std::vector<std::uint8_t> pixels(static_cast<std::size_t>(image > 0 ? sizes.image.size() : 0));
  // A pass of `count` sequences, of which the last `images` have images, with `left` rows of texts in all:
  // divided evenly, or to texts that are as long as possible.
  const auto pass = [&](Index count, Index images, Index left, bool even) {
    Batch batch;
    for (Index after = count - 1; after >= 0; --after) {
      const Index most = even ? (left + after) / (after + 1) : left - std::max<Index>(after - images, 0);
      const Index length = std::min(most, longest);
      left -= length;
      add(std::span(tokens).first(static_cast<std::size_t>(length)),
          after < images ? std::span<const std::uint8_t>(pixels) : std::span<const std::uint8_t>(), batch);
    }
    batch.global_tokens = batch.local_tokens(), batch.global_sequences = batch.local_sequences();
    batch.global_images = batch.local_images();
    scores(batch);
  };
  // Passes with all the rows that there may be, for this many images and, if the model reads texts, the
  // remaining rows as texts: once in as few sequences as hold them, and once in as many as there may be.
  const auto passes = [&](Index images) {
    const Index left = texts ? std::max<Index>(rows - images * image, 0) : 0;
    for (const bool even : texts ? std::vector{false, true} : std::vector{true}) {
      const Index wanted = even ? images + left : (left + longest - 1) / longest;
      const Index count = std::clamp(wanted, std::max<Index>(images, 1), sequences);
      pass(count, images, std::min(left, count * longest), even);
    }
  };
  if (texts) passes(0);
  if (image > 0) {
    passes(std::clamp<Index>(rows / image, 1, sequences));
    if (texts) passes(std::clamp<Index>(rows / (image + longest), 1, sequences));
    if (texts) passes(std::clamp<Index>(rows / (image + 1), 1, sequences));
  }
  planning_ = false;
  activations_.seal(std::size_t{1} << 16, 0.02);
  return activations_.capacity();
}

std::vector<Prediction> Predictor::predict(std::span<const Example> examples) {
  require(alone_, "predict runs in one process");
  const std::size_t most = classifier_.image_tokens() > 0 ? 32 : 256;  // per forward pass
  std::vector<Prediction> predictions;
  const auto classes = model_.class_names().size();
  for (std::size_t first = 0; first < examples.size(); first += most) {
    const auto part = examples.subspan(first, std::min(most, examples.size() - first));
    Batch batch;
    for (const Example& example : part) add(example, batch);
    batch.global_tokens = batch.local_tokens();
    const Tensor probabilities = scores(batch).probabilities;
    const float* row = probabilities.data<float>();
    for (std::size_t i = 0; i < part.size(); ++i, row += classes)
      predictions.push_back(
          {{row, row + classes}, static_cast<std::size_t>(std::max_element(row, row + classes) - row)});
  }
  return predictions;
}

}  // namespace conclave

#include "recipes/predictor.h"

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
    require(model_.tokenizer().has_value(),
            "the model was trained on images alone, and predict was given a text; give it --image FILE");
    const TextExample given = text_example(example.text, model_.tokenizer()->separator().has_value());
    text = model_.tokenizer()->encode_split(std::span(&given, 1), model_.recipe().data.max_length);
  }
  const auto tokens = text.size() > 0 ? text.sequence(0) : std::span<const std::int32_t>();
  if (!example.has_image()) return add(tokens, {}, batch);
  require(shape.size() > 0, "{}: the model was trained on texts alone, and takes no image", example.image);
  std::vector<std::uint8_t> read;
  if (!example.pixels) read = read_image(example.image, shape);
  const auto& pixels = example.pixels ? example.pixels->pixels : read;
  const ImageShape& given = example.pixels ? example.pixels->shape : shape;
  require(given == shape,
          "an image of {} x {} pixels in {} channels, but the model was trained on {} x {} in {}",
          given.height, given.width, given.channels, shape.height, shape.width, shape.channels);
  add(tokens, pixels, batch);
}

Predictor::Scores Predictor::scores(const Batch& batch) {
  activations_.reset();
  Tape tape(activations_, false);
  if (!planning_) tape.stop_planning();  // nobody knows how long the texts will be that are still to come
  ForwardContext context{.training = false,
                         .stream = {},
                         .first_token = batch.first_token,
                         .first_sequence = batch.first_sequence,
                         .global_tokens = batch.global_tokens,
                         .global_sequences = batch.global_sequences,
                         .global_images = batch.global_images};
  const TaskOutput output = classifier_(tape, context, model_input(batch));
  features_ = output.features.size(1);
  return {tape.on_host(functions::softmax(tape, output.logits)), tape.on_host(output.features)};
}

std::size_t Predictor::plan(Index sequences, Index rows) {
  planning_ = true;
  const ModelSizes& sizes = model_.model().sizes();
  const Index image = classifier_.image_tokens(), longest = image + sizes.max_length;
  const std::vector<std::int32_t> tokens(static_cast<std::size_t>(std::min(sizes.max_length, rows)));
  const std::vector<std::uint8_t> pixels(static_cast<std::size_t>(image > 0 ? sizes.image.size() : 0));
  const auto pass = [&](Index count, Index with_image, Index length) {
    Batch batch;
    for (Index i = 0; i < count; ++i)
      add(std::span(tokens).first(static_cast<std::size_t>(length)),
          i < with_image ? std::span<const std::uint8_t>(pixels) : std::span<const std::uint8_t>(), batch);
    batch.global_tokens = batch.local_tokens(), batch.global_sequences = batch.local_sequences();
    batch.global_images = batch.local_images();
    scores(batch);
  };
  // As many sequences, as long ones, and as many images as there may be.
  const bool texts = model_.recipe().data.has_texts();
  if (texts) {
    pass(std::min(sequences, rows), 0, std::clamp<Index>(rows / sequences, 1, sizes.max_length));
    pass(std::max<Index>(rows / sizes.max_length, 1), 0, std::ssize(tokens));
  }
  if (image > 0) {
    const Index images = std::clamp<Index>(rows / image, 1, sequences);
    pass(images, images, 0);
    if (texts) {
      const Index both = std::clamp<Index>(rows / longest, 1, sequences);
      pass(both, both, std::ssize(tokens));
      const Index some = std::clamp<Index>(rows / (image + 1), 1, sequences);
      pass(some, some, std::clamp<Index>(rows / some - image, 1, sizes.max_length));
    }
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

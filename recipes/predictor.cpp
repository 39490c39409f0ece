#include "recipes/predictor.h"

#include <algorithm>

#include "data/image_transform.h"

namespace conclave {
namespace {

// Of a line of input.
TextExample text_of(const std::string& text, bool of_pairs) {
  const std::size_t tab = of_pairs ? text.find('\t') : std::string::npos;
  if (tab == std::string::npos) return {text, 0};
  return {text.substr(0, tab), 0, false, text.substr(tab + 1)};
}

Classifier& classifier_of(LoadedModel& model) {
  Classifier* classifier = model.model().classifier();
  require(classifier != nullptr, "the model was not trained to classify; predict has no classes to tell");
  return *classifier;
}

}  // namespace

Predictor::Predictor(LoadedModel& model, const ProcessGrid& grid)
    : model_(model), classifier_(classifier_of(model)), activations_("activations", 0, grid.device()) {
  require(grid.world().size() == 1, "predict runs in one process, not in {}", grid.world().size());
}

void Predictor::add(const Example& example, Batch& batch) const {
  const ImageShape& shape = model_.model().sizes().image;
  TokenizedSplit text;
  if (!example.text.empty() || !example.has_image()) {
    require(model_.tokenizer().has_value(),
            "the model was trained on images alone, and predict was given a text; give it --image FILE");
    const TextExample given = text_of(example.text, model_.tokenizer()->separator().has_value());
    text = model_.tokenizer()->encode_split(std::span(&given, 1), model_.recipe().data.max_length);
  }
  const auto tokens = text.size() > 0 ? text.sequence(0) : std::span<const std::int32_t>();
  if (!example.has_image()) {
    batch.add(tokens, 0);
    return;
  }
  require(shape.size() > 0, "{}: the model was trained on texts alone, and takes no image", example.image);
  std::vector<std::uint8_t> read;
  if (!example.pixels) read = read_image(example.image, shape);
  const auto& pixels = example.pixels ? example.pixels->pixels : read;
  const ImageShape& given = example.pixels ? example.pixels->shape : shape;
  require(given == shape,
          "an image of {} x {} pixels in {} channels, but the model was trained on {} x {} in {}",
          given.height, given.width, given.channels, shape.height, shape.width, shape.channels);
  std::ranges::copy(pixels, batch.add(tokens, 0, classifier_.image_tokens(), pixels.size()).begin());
}

std::vector<Prediction> Predictor::predict(std::span<const Example> examples) {
  const std::size_t most = classifier_.image_tokens() > 0 ? 32 : 256;  // per forward pass
  std::vector<Prediction> predictions;
  const auto classes = model_.class_names().size();
  for (std::size_t first = 0; first < examples.size(); first += most) {
    const auto part = examples.subspan(first, std::min(most, examples.size() - first));
    Batch batch;
    for (const Example& example : part) add(example, batch);
    ArenaScope scope(activations_);
    Tape tape(activations_, false);
    tape.stop_planning();  // nobody knows how long the texts will be that are still to come
    ForwardContext context{.training = false, .stream = {}, .global_tokens = batch.local_tokens()};
    const Tensor logits = classifier_(tape, context, model_input(batch)).logits;
    const Tensor probabilities = tape.on_host(functions::softmax(tape, logits));
    const float* row = probabilities.data<float>();
    for (std::size_t i = 0; i < part.size(); ++i, row += classes)
      predictions.push_back(
          {{row, row + classes}, static_cast<std::size_t>(std::max_element(row, row + classes) - row)});
  }
  return predictions;
}

}  // namespace conclave

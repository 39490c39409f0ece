#include "recipes/predictor.h"

#include <algorithm>

namespace conclave {

namespace {

TextExample example_of(const std::string& text, bool of_pairs) {
  const std::size_t tab = of_pairs ? text.find('\t') : std::string::npos;
  if (tab == std::string::npos) return {text, 0};
  return {text.substr(0, tab), 0, false, text.substr(tab + 1)};
}

}  // namespace

Predictor::Predictor(LoadedModel& model, const ProcessGrid& grid)
    : model_(model), activations_("activations", 0, grid.device()) {
  require(grid.world().size() == 1, "predict runs in one process, not in {}", grid.world().size());
  require(model.tokenizer().has_value(), "the model was trained on images alone, and predict gives it texts");
}

std::vector<Prediction> Predictor::predict(std::span<const std::string> texts) {
  constexpr std::size_t kTexts = 256;  // per forward pass
  std::vector<Prediction> predictions;
  const auto classes = model_.class_names().size();
  const bool of_pairs = model_.tokenizer()->separator().has_value();
  for (std::size_t first = 0; first < texts.size(); first += kTexts) {
    const auto part = texts.subspan(first, std::min(kTexts, texts.size() - first));
    std::vector<TextExample> examples;
    for (const std::string& text : part) examples.push_back(example_of(text, of_pairs));
    const TokenizedSplit split = model_.tokenizer()->encode_split(examples, model_.recipe().data.max_length);
    Batch batch;
    for (std::int64_t i = 0; i < split.size(); ++i) batch.add(split.sequence(i), 0);
    ArenaScope scope(activations_);
    Tape tape(activations_, false);
    tape.stop_planning();  // nobody knows how long the texts will be that are still to come
    ForwardContext context{.training = false, .stream = {}, .global_tokens = batch.local_tokens()};
    const Tensor logits = (*model_.model().classifier())(tape, context, model_input(batch)).logits;
    const Tensor probabilities = tape.on_host(functions::softmax(tape, logits));
    const float* row = probabilities.data<float>();
    for (const std::string& text : part) {
      predictions.push_back(
          {text, {row, row + classes}, static_cast<std::size_t>(std::max_element(row, row + classes) - row)});
      row += classes;
    }
  }
  return predictions;
}

}  // namespace conclave

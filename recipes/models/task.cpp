#include "recipes/models/task.h"

namespace conclave {

TaskOutput::Losses TaskOutput::losses_of_terms(Tape& tape, double parts) const {
  Losses losses;
  for (const auto& [values, weight] : terms()) {
    Tape::Loss& loss = losses.of_terms[losses.count++];
    loss = {values, tape.empty(values.shape(), values.dtype())};
    loss.seed.fill(weight / parts);
  }
  return losses;
}

double Task::flops(Extent& extent) const {
  double sum = 0;
  for (const Cost& cost : costs(extent.rows())) sum += cost.flops;
  extent = {};
  return sum;
}

void Task::expect_images(const ModelInput& input) const {
  const Index images = input.image_sequences.size(0), examples = input.sequences();
  require(images == examples, "{}: {} of {} examples have no image", name(), examples - images, examples);
}

Tensor Task::sequence_means(Tape& tape, const Tensor& losses, const Tensor& offsets) {
  const Tensor means =
      functions::segment_mean(tape, functions::reshape(losses, {losses.size(0), 1}), tape.on_device(offsets));
  return functions::reshape(means, {means.size(0)});
}

}  // namespace conclave

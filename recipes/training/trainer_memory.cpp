// Plans the memory of a run: passes with the largest batches, before the first step.
#include <fmt/ranges.h>

#include "recipes/models/planning.h"
#include "recipes/training/trained_task.h"

namespace conclave {

void Trainer::plan_memory() {
  // The gradients' first sums come after planning, and what these groups need would be missing there.
  for (Communicator* group : {&grid_.world(), &grid_.expert_group(), &grid_.data_group()}) group->prepare();
  Batch largest;
  std::vector<std::function<void()>> passes;
  for (std::size_t t = 0; t < tasks_.size(); ++t) {
    TrainedTask& one = tasks_[t];
    const auto batcher = std::make_shared<DynamicBatcher>(
        one.splits->train, training_batches(recipe_, *one.task, grid_.world()));
    for (const auto most : batcher->extremes())
      passes.emplace_back([this, t, most, batcher, &largest] {
        batcher->fill_largest(largest, most);
        forward_backward(t, largest, 0, false);
        activations_.reset();
      });
    for (Evaluator* evaluator : {one.validation.get(), one.test.get()})
      passes.emplace_back([evaluator] { evaluator->plan(); });
  }
  plan_passes(layers_, grid_.world(), passes);
  // Rows of a few dozen bytes are rounded up to cache lines, differently in every batch.
  activations_.seal(std::size_t{1} << 16, 1.0 / 64);
  parameters_.zero_gradients();
  if (Quantization* quantization = model_.quantization()) ranges_.emplace(*quantization, grid_.world());
  for (const auto& [name, layer] : layers_) layer->reset_statistics();
  const std::size_t staging = writer_.prepare(entries_);
  log_.say(fmt::format("model: {} parameters ({} on this rank)", grid_.world().size() == 1 ? parameters_.elements() : [&] {
    Index total = 0;
    for (const Parameter* parameter : parameters_.parameters()) total += parameter->global_shape().numel();
    return total;
  }(), parameters_.elements()));
  if (!layers_.empty() && layers_.front().second->experts().kinds().size() > 1) {
    std::vector<std::string> kinds;
    for (const auto& kind : layers_.front().second->experts().kinds())
      kinds.push_back(fmt::format("{} {} of {:.1f} kFLOP per row", kind.total, kind.experts->name(),
                                  kind.experts->flops_per_row() / 1e3));
    log_.say(fmt::format("experts of a layer: {}", fmt::join(kinds, ", ")));
  }
  log_.say(fmt::format(
      "memory per rank: parameters {}, gradients {}, optimizer {}, activations {}, checkpoint staging {}",
      format_bytes(parameters_.values().capacity()), format_bytes(parameters_.gradients().capacity()),
      format_bytes(optimizer_.state().capacity()), format_bytes(activations_.capacity()),
      format_bytes(staging)));
  std::vector<std::string_view> names;
  for (const TrainedTask& one : tasks_) names.push_back(one.task->name());
  sums_.lay_out(layers_, names, recipe_.moe.experts);
  sums_.timed = grid_.device() == Device::cpu;
}

}  // namespace conclave

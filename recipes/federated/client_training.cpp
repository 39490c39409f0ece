#include "recipes/federated/client_training.h"

#include <algorithm>
#include <utility>

#include "core/kernels/activation.h"
#include "core/kernels/reduction.h"
#include "recipes/corpus/training_batches.h"

namespace conclave {
namespace {

// Numbers of streams: those from here on order examples; those below are for dropout, see first_stream().
constexpr std::uint32_t kOrder = 1u << 31;

BatcherOptions options_of(const SimulationTable& simulation, const Recipe& recipe, const Task& task,
                          const TokenizedSplit& train) {
  // As many rows as a step may have, but no more than the recipe allows; larger steps are computed in parts.
  const std::int64_t longest = task.image_tokens() + (train.tokens.empty() ? 0 : recipe.data.max_length);
  const std::int64_t step =
      simulation.local_batch > 0 ? simulation.local_batch * longest : recipe.train.batch_tokens;
  BatcherOptions options = training_batches(recipe, task);
  options.tokens = std::max(std::min(step, recipe.train.batch_tokens), longest);
  return options;
}

}  // namespace

ClientTraining::ClientTraining(const SimulationTable& simulation, const Recipe& recipe, Model& model,
                               ParameterSet& parameters, const TokenizedSplit& train, Arena& activations,
                               std::uint64_t seed)
    : simulation_(simulation),
      parameters_(parameters),
      task_(*model.tasks().front()),
      activations_(activations),
      batcher_(train, options_of(simulation, recipe, task_, train)),
      seed_(seed) {
  require(batcher_.batches_per_epoch() > 0, "the training split is empty; give [data] rows to train on");
  batcher_.reserve(batch_);
}

void ClientTraining::plan() {
  for (const auto most : batcher_.extremes()) {
    batcher_.fill_largest(batch_, most);
    forward_backward(batch_, {});
  }
  parameters_.zero_gradients();
}

double ClientTraining::forward_backward(const Batch& batch, const RandomStream& stream) {
  activations_.reset();
  Tape tape(activations_);
  const ModelInput input = model_input(batch);
  ForwardContext context{.training = true,
                         .stream = stream,
                         .first_token = batch.first_token,
                         .first_sequence = batch.first_sequence,
                         .global_tokens = batch.global_tokens,
                         .global_sequences = batch.global_sequences,
                         .in_domain = input.in_domain,
                         .global_images = batch.global_images};
  const TaskOutput output = task_(tape, context, input);
  tape.backward(output.losses_of_terms(tape));
  return kernels::sum(output.losses);
}

void ClientTraining::descend(double proximal, std::span<const float> anchor) {
  std::size_t offset = 0;
  for (const Parameter* parameter : parameters_.parameters()) {
    if (proximal <= 0) break;
    const auto values = parameter->value.span<float>(), gradients = parameter->slot.gradient.span<float>();
    for (std::size_t i = 0; i < values.size(); ++i)
      gradients[i] += static_cast<float>(proximal) * (values[i] - anchor[offset + i]);
    offset += values.size();
  }
  for (const auto& segment : parameters_.segments())
    kernels::scale(segment.gradients, -simulation_.client_rate, segment.values, Write::accumulate);
}

ClientTraining::Result ClientTraining::train(std::span<const std::int64_t> examples, std::int64_t client,
                                             std::int64_t round, double proximal,
                                             std::span<const float> anchor) {
  Result result;
  // Each client has a seed of its own: multiples of Weyl's constant, which is odd, differ modulo 2^64.
  RandomStream stream{seed_ + 0x9E3779B97F4A7C15u * static_cast<std::uint64_t>(client + 1),
                      static_cast<std::uint32_t>(round), 0};
  const auto all = static_cast<std::int64_t>(examples.size());
  const std::int64_t batch = simulation_.local_batch > 0 ? std::min(simulation_.local_batch, all) : all;
  const std::int64_t per_epoch = (all + batch - 1) / batch;
  const std::int64_t steps =
      simulation_.local_steps > 0 ? simulation_.local_steps : simulation_.local_epochs * per_epoch;
  order_.assign(examples.begin(), examples.end());
  for (std::int64_t step = 0, batches = 0; step < steps; ++step) {
    const std::int64_t epoch = step / per_epoch, first = step % per_epoch * batch;
    if (first == 0 && per_epoch > 1) {
      stream.tensor = kOrder + static_cast<std::uint32_t>(epoch);
      for (std::size_t left = order_.size(); left > 1; --left)
        std::swap(order_[left - 1], order_[stream.below(left, left)]);
    }
    std::span<const std::int64_t> rest(order_);
    rest =
        rest.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(std::min(batch, all - first)));
    // The parts' gradients are summed, so each part's means are over the whole step.
    const auto of_step = static_cast<std::int64_t>(rest.size());
    std::int64_t rows = 0, images = 0;
    for (const std::int64_t example : rest) {
      rows += batcher_.length(example);
      images += batcher_.has_image(example);
    }
    parameters_.zero_gradients();
    while (!rest.empty()) {
      rest = rest.subspan(batcher_.fill_with(rest, seed_, round * 1000 + epoch, batch_));
      batch_.global_tokens = rows, batch_.global_sequences = of_step, batch_.global_images = images;
      stream.tensor = first_stream(batches++);
      result.loss += forward_backward(batch_, stream);
    }
    descend(proximal, anchor);
    result.seen += of_step;
  }
  return result;
}

}  // namespace conclave

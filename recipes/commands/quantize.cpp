#include <fmt/format.h>

#include "parallel/checkpoint/checkpoint_writer.h"
#include "recipes/commands/commands.h"
#include "recipes/integer_state.h"
#include "recipes/split_evaluation.h"

namespace conclave::commands {

int quantize(const QuantizeArguments& arguments, const Surroundings& surroundings,
             const MpiSession& session) {
  auto world = session.world();
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  std::vector<std::string> overrides = arguments.overrides;
  overrides.insert(overrides.begin(), {"quantization.enabled=true", "quantization.start_step=0"});
  SplitEvaluation data(arguments.checkpoint, "train", "", overrides, grid, true);
  LoadedModel& loaded = data.loaded();
  Quantization& quantization = *loaded.model().quantization();
  RangeLearning ranges(quantization, grid.world());
  if (!quantization.observers.empty()) data.calibrate(arguments.batches, [&] { ranges.learn(); });

  const CheckpointReader reader(data.checkpoint());
  CheckpointState state = reader.state();
  state.recipe = to_toml(loaded.recipe());
  CheckpointWriter writer(arguments.out, grid.world(), 0, false);
  writer.save(integer_entries(loaded.parameters(), loaded.model()), state);
  const SaveOutcome outcome = *writer.wait();
  require(outcome.saved, "quantize: {}", outcome.message);
  if (grid.world().rank() != 0) return 0;
  double before = 0, after = 0;  // bytes of quantized weights
  for (const Quantizer* quantizer : quantization.quantizers) {
    const Parameter& weight = quantizer->weight_parameter();
    const Shape shape = weight.global_shape();
    const auto channels = static_cast<double>(quantizer->scale_shape(shape).numel());
    before += sizeof(float) * static_cast<double>(shape.numel());
    after += static_cast<double>(shape.numel()) + sizeof(float) * channels;
  }
  fmt::print("quantized {} weights to {:.1f} MiB, {:.2f} times smaller; {}\n", quantization.quantizers.size(),
             after / (1 << 20), after > 0 ? before / after : 1, outcome.path);
  return 0;
}

}  // namespace conclave::commands

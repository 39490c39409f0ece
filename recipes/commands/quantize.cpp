#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "core/print_line.h"
#include "federated/privacy/privacy_marks.h"
#include "parallel/checkpoint/checkpoint_writer.h"
#include "recipes/commands/commands.h"
#include "recipes/evaluation/split_evaluation.h"
#include "recipes/models/integer_state.h"
#include "recipes/training/run_folder.h"

namespace conclave::commands {
namespace {

// The metadata without measurements of the model before.
std::string notes_of(nlohmann::json metadata) {
  for (const char* measured : {"metrics", "routing", "measured_at"}) metadata.erase(measured);
  return metadata.dump();
}

}  // namespace

int quantize(const QuantizeArguments& arguments, const ProcessEnvironment& surroundings,
             const MpiSession& session) {
  auto world = session.world();
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  std::vector<std::string> overrides = arguments.overrides;
  overrides.insert(overrides.begin(), {"quantization.enabled=true", "quantization.start_step=0"});
  // A checkpoint that is there could be the model itself, or a later step, which other commands would take.
  RunFolder folder(arguments.out, grid.world());
  const auto expect_no_checkpoints = [&] { folder.expect_no_checkpoints("; name another folder by --out"); };
  expect_no_checkpoints();
  // The training data, which may not be on this machine, is read only if ranges are learned from it.
  const std::string path = find_checkpoint(arguments.checkpoint, Verify::model, grid.world());
  CheckpointState state = CheckpointReader(path).state();
  const Recipe recipe = parse_recipe(state.recipe, path + ":/state/recipe", overrides);
  const bool by_token = recipe.quantization.activations == "token";
  const auto metadata = nlohmann::json::parse(state.metadata);
  require(by_token || !is_private(metadata),
          "{}: the model was trained with privacy, and ranges learned from its training examples would have "
          "no noise; set quantization.activations to \"token\"",
          path);
  std::optional<SplitEvaluation> data;
  std::optional<LoadedModel> alone;
  if (by_token)
    alone.emplace(path, grid, overrides, true);
  else
    data.emplace(path, EvaluatedData{"train"}, "", overrides, grid, true);
  LoadedModel& loaded = data ? data->loaded() : *alone;
  Quantization& quantization = *loaded.model().quantization();
  RangeLearning ranges(quantization, grid.world());
  if (data) data->observe(arguments.batches, [&] { ranges.learn(); });
  std::vector<std::string> unseen;
  for (const Quantizer* quantizer : quantization.quantizers)
    if (!quantizer->has_ranges()) unseen.push_back(quantizer->weight_parameter().name);
  if (!unseen.empty() && grid.world().rank() == 0)
    warn(fmt::format("these training examples do not reach the inputs of {}, whose products stay in f32",
                     fmt::join(unseen, ", ")));

  state.recipe = to_toml(loaded.recipe());
  state.metadata = notes_of(metadata);
  folder.lock();
  expect_no_checkpoints();  // a folder that was not there had no lock, so another process may have saved some
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

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "core/arena.h"
#include "federated/privacy/privacy_marks.h"
#include "parallel/checkpoint/checkpoint_reader.h"
#include "parallel/moe/balancer.h"
#include "recipes/commands/commands.h"
#include "recipes/evaluation/expert_table.h"
#include "recipes/models/loaded_model.h"

namespace conclave::commands {
namespace {

// When the measurements were made, if that was before the checkpoint's step.
std::string when_measured(const nlohmann::json& metadata, std::int64_t step) {
  const std::int64_t at = metadata.at("measured_at");
  return at == step ? "" : fmt::format(" (measured at step {})", at);
}

void print_experts(const nlohmann::json& metadata, std::int64_t step) {
  if (!metadata.contains("routing")) {
    fmt::print("experts: {}\n", is_private(metadata)
                                    ? "none listed: a private model's checkpoint has no measurements"
                                    : "no evaluation was saved with this checkpoint yet");
    return;
  }
  const auto names = metadata.at("class_names").get<std::vector<std::string>>();
  for (const auto& [layer, table] : metadata.at("routing").items()) {
    const auto counts = table.get<std::vector<Index>>();
    const ExpertTable experts(counts, names.size());
    fmt::print("{}: utilization {:.3f} on the validation split{}\n", layer,
               utilization(experts.expert_totals()), when_measured(metadata, step));
    for (std::size_t e = 0; e < experts.experts(); ++e)
      fmt::print("  {}\n", describe_expert(experts, e, names));
  }
}

}  // namespace

int inspect(const InspectArguments& arguments) {
  const CheckpointReader reader(
      find_checkpoint(arguments.checkpoint, arguments.verify ? Verify::structure : Verify::model));
  const CheckpointState& state = reader.state();
  const auto metadata = nlohmann::json::parse(state.metadata);
  if (arguments.recipe) {
    fmt::print("{}", state.recipe);
    return 0;
  }
  Index elements = 0, tensors = 0;
  std::size_t bytes = 0;
  for (const std::string& name : reader.names()) {
    const Shape shape = reader.shape(name);
    bytes += static_cast<std::size_t>(shape.numel()) * size_of(reader.dtype(name));
    if (name.starts_with("model/")) elements += shape.numel(), ++tensors;
    if (arguments.tensors) fmt::print("{:<64} {:>4} {}\n", name, name_of(reader.dtype(name)), shape);
  }
  fmt::print("{}\n", reader.path());
  fmt::print("step {}; model of {} numbers in {} tensors; {} tensors and {} in all\n", state.step, elements,
             tensors, reader.names().size(), format_bytes(bytes));
  fmt::print("written by {} ranks, {} of them sharing the experts; tokenizer {}\n",
             metadata.at("ranks").get<int>(), metadata.at("expert_parallel").get<int>(),
             metadata.at("tokenizer_hash").get<std::string>());
  for (const std::string& line : describe_privacy(metadata)) fmt::print("{}\n", line);
  const auto positions = metadata.value("data_position", nlohmann::json::object());
  for (const auto& [task, position] : positions.items())
    fmt::print("{}: next is epoch {}, batch {}\n", task, position.at("epoch").get<Index>(),
               position.at("batch").get<Index>());
  if (metadata.contains("metrics"))
    for (const auto& [task, metrics] : metadata.at("metrics").items())
      for (const auto& [name, value] : metrics.items())
        fmt::print("{}: {} {}{}\n", task, name,
                   value.is_number() ? fmt::format("{:.4f}", value.get<double>()) : "not finite",
                   when_measured(metadata, state.step));
  print_experts(metadata, state.step);
  if (arguments.verify) {
    reader.verify();
    fmt::print("every tensor matches its checksum\n");
  }
  return 0;
}

}  // namespace conclave::commands

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/arena.h"
#include "parallel/checkpoint/checkpoint_reader.h"
#include "parallel/checkpoint/export.h"
#include "parallel/checkpoint/safetensors.h"
#include "parallel/moe/balancer.h"
#include "recipes/commands/commands.h"
#include "recipes/loaded_model.h"

namespace conclave::commands {
namespace {

void print_experts(const nlohmann::json& metadata) {
  if (!metadata.contains("routing")) {
    fmt::print("experts: no evaluation was saved with this checkpoint yet\n");
    return;
  }
  const auto names = metadata.at("class_names").get<std::vector<std::string>>();
  for (const auto& [layer, table] : metadata.at("routing").items()) {
    const auto counts = table.get<std::vector<Index>>();
    const std::size_t classes = names.size(), experts = counts.size() / classes;
    std::vector<Index> load(experts), of_class(classes);
    for (std::size_t i = 0; i < counts.size(); ++i) {
      load[i / classes] += counts[i];
      of_class[i % classes] += counts[i];
    }
    const double total =
        std::max(1.0, static_cast<double>(std::accumulate(load.begin(), load.end(), Index{})));
    fmt::print("{}: utilization {:.3f} on the validation split\n", layer, utilization(load));
    for (std::size_t e = 0; e < experts; ++e) {
      // How much more often than chance a class comes to this expert tells what it serves.
      std::vector<std::pair<double, std::size_t>> lift;
      for (std::size_t c = 0; c < classes; ++c) {
        const double expected = static_cast<double>(load[e]) * static_cast<double>(of_class[c]) / total;
        if (expected >= 1) lift.emplace_back(static_cast<double>(counts[e * classes + c]) / expected, c);
      }
      std::ranges::sort(lift, std::greater{});
      std::string serves;
      for (std::size_t i = 0; i < std::min<std::size_t>(4, lift.size()); ++i)
        serves += fmt::format("{}{} x{:.2f}", i ? ", " : "", names[lift[i].second], lift[i].first);
      fmt::print("  expert {:>2}  load {:.3f}  serves above average: {}\n", e,
                 static_cast<double>(load[e]) / total * static_cast<double>(experts), serves);
    }
  }
}

}  // namespace

int inspect(const InspectArguments& arguments) {
  const CheckpointReader reader(find_checkpoint(arguments.checkpoint));
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
    if (arguments.tensors)
      fmt::print("{:<64} {:>4} {}\n", name, name_of(reader.dtype(name)), shape.to_string());
  }
  fmt::print("{}\n", reader.path());
  fmt::print("step {}; model of {} numbers in {} tensors; {} tensors and {} in all\n", state.step, elements,
             tensors, reader.names().size(), format_bytes(bytes));
  fmt::print(
      "written by {} ranks, {} of them sharing the experts; data position: epoch {}, batch {}; tokenizer "
      "{}\n",
      metadata.at("ranks").get<int>(), metadata.at("expert_parallel").get<int>(),
      metadata.at("data_position").at("epoch").get<Index>(),
      metadata.at("data_position").at("batch").get<Index>(),
      metadata.at("tokenizer_hash").get<std::string>());
  if (metadata.contains("metrics"))
    for (const auto& [name, value] : metadata.at("metrics").items())
      fmt::print("{} {:.4f}\n", name, value.get<double>());
  print_experts(metadata);
  if (arguments.verify) {
    reader.verify_all();
    fmt::print("every tensor matches its checksum\n");
  }
  return 0;
}

int export_weights(const ExportArguments& arguments) {
  const CheckpointReader reader(find_checkpoint(arguments.checkpoint));
  if (arguments.output.ends_with(".safetensors"))
    export_safetensors(reader, arguments.output, parse_recipe(reader.state().recipe, reader.path()).run.name);
  else if (arguments.output.ends_with(".h5") || arguments.output.ends_with(".hdf5"))
    export_hdf5(reader, arguments.output);
  else
    fail("{}: name the output *.h5 or *.safetensors", arguments.output);
  fmt::print("{}\n", arguments.output);
  return 0;
}

}  // namespace conclave::commands

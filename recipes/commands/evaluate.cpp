#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/json_text.h"
#include "recipes/commands/commands.h"
#include "recipes/evaluation/split_evaluation.h"

namespace conclave::commands {
namespace {

nlohmann::ordered_json domain_summary(SplitEvaluation& evaluation, const Evaluation& result) {
  const Index wanted = evaluation.recipe().moe.domain_expert;
  nlohmann::ordered_json summary{{"name", evaluation.recipe().data.domain_name()},
                                 {"tokens", result.domain.front().domain_tokens},
                                 {"ratio", mean_ratio(result.domain, wanted)}};
  const auto layers = evaluation.loaded().model().moe_layers();
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const DomainRouting& layer = result.domain[l];
    const std::size_t expert = layer.expert(wanted);
    summary["layers"][layers[l].first] = {{"expert", expert},
                                          {"ratio", layer.ratio(expert)},
                                          {"share", layer.domain_share(expert)},
                                          {"share_of_others", layer.other_share(expert)}};
  }
  return summary;
}

}  // namespace

int evaluate(const EvaluateArguments& arguments, const ProcessEnvironment& surroundings,
             const MpiSession& session) {
  DeviceWorld chosen = world_for(arguments.device, session);
  auto& world = chosen.world;
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  std::vector<std::string> overrides = arguments.overrides;
  if (arguments.int8)
    overrides.insert(overrides.begin(), {"quantization.enabled=true", "quantization.start_step=0"});
  const bool of_table = !arguments.data.empty();
  SplitEvaluation evaluation(arguments.checkpoint, {arguments.split, arguments.data}, arguments.task,
                             overrides, grid);
  const Evaluation result = evaluation.run();
  require(!arguments.classes || !result.classes.empty(), "--classes: there are none of the task \"{}\"",
          evaluation.task());
  if (grid.world().rank() == 0) {
    nlohmann::ordered_json summary{
        {"checkpoint", evaluation.checkpoint()},
        {"step", evaluation.loaded().step()},
        {of_table ? "data" : "split", of_table ? arguments.data : arguments.split},
        {"task", evaluation.task()},
        {"examples", result.sequences},
        {"loss", result.loss},
        {"utilization", result.utilization},
        {"batch_utilization", result.batch_utilization},
        {"experts_per_token", result.mean_experts()},
        {"route_hit_rate", result.route_hit_rate},
        {"tokens_per_second", static_cast<double>(result.tokens) / result.seconds}};
    if (result.accuracy) summary["accuracy"] = *result.accuracy;
    if (result.macro_f1) summary["macro_f1"] = *result.macro_f1;
    for (const auto& [measure, value] : result.measures) summary[measure] = value;
    if (result.image_weight) summary["image_weight"] = *result.image_weight;
    if (!result.domain.empty()) summary["domain"] = domain_summary(evaluation, result);
    fmt::print("{}\n", json_text(summary));
    for (std::size_t c = 0; c < result.classes.size() && arguments.classes; ++c) {
      const ClassCount& count = result.classes[c];
      const nlohmann::ordered_json line{{"class", evaluation.class_names()[c]},
                                        {"examples", count.examples()},
                                        {"guessed", count.right + count.wrongly_guessed},
                                        {"precision", count.precision()},
                                        {"recall", count.recall()}};
      fmt::print("{}\n", json_text(line));
    }
  }
  return 0;
}

}  // namespace conclave::commands

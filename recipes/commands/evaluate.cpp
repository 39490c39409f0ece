#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "recipes/commands/commands.h"
#include "recipes/split_evaluation.h"

namespace conclave::commands {

int evaluate(const EvaluateArguments& arguments, const Surroundings& surroundings,
             const MpiSession& session) {
  auto world = session.world();
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  SplitEvaluation evaluation(arguments.checkpoint, arguments.split, arguments.overrides, grid);
  const Evaluation result = evaluation.run();
  if (grid.world().rank() == 0) {
    const nlohmann::ordered_json summary{
        {"checkpoint", evaluation.checkpoint()},
        {"step", evaluation.loaded().step()},
        {"split", arguments.split},
        {"texts", result.sequences},
        {"accuracy", result.accuracy},
        {"macro_f1", result.macro_f1},
        {"loss", result.loss},
        {"utilization", result.utilization},
        {"batch_utilization", result.batch_utilization},
        {"experts_per_token", result.mean_experts()},
        {"route_hit_rate", result.route_hit_rate},
        {"tokens_per_second", static_cast<double>(result.tokens) / result.seconds}};
    fmt::print("{}\n", summary.dump());
  }
  return 0;
}

}  // namespace conclave::commands

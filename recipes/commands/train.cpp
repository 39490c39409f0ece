#include <omp.h>

#include "core/print_line.h"
#include "recipes/commands/commands.h"
#include "recipes/settings/plugins.h"
#include "recipes/training/core_share.h"

namespace conclave::commands {

void set_threads(std::int64_t requested, const ProcessEnvironment& surroundings, Communicator& world) {
  if (requested > 0) return omp_set_num_threads(static_cast<int>(requested));
  if (surroundings.omp_threads_given) return;
  // mpirun may have bound each rank to its own cores. Ranks share cores that are not bound.
  std::vector<std::string> neighbours;
  const std::string cores = cores_of_process(), mine = surroundings.host + '\n' + cores;
  for (const std::string& rank : world.all_gather(mine))
    if (rank.starts_with(surroundings.host + '\n')) neighbours.push_back(rank.substr(rank.find('\n') + 1));
  omp_set_num_threads(static_cast<int>(threads_for(cores, neighbours)));
}

DeviceWorld world_for(const std::string& device, const MpiSession& session) {
  DeviceWorld chosen = world_on(device, session.world());
  if (chosen.world->rank() == 0) {
    if (!chosen.note.empty()) complain("on processors, as ", chosen.note);
    if (!chosen.warning.empty()) warn(chosen.warning);
  }
  return chosen;
}

ProcessGrid grid_for(Recipe& recipe, const std::string& name, const ProcessEnvironment& surroundings,
                     std::unique_ptr<Communicator> world) {
  check_expert_parallel(recipe, name, world->size());
  load_plugins(recipe, name, world.get());
  set_threads(recipe.run.threads, surroundings, *world);
  return {std::move(world), static_cast<int>(recipe.parallel.expert_parallel)};
}

TrainerEnvironment trainer_environment(const ProcessEnvironment& surroundings, std::string resume) {
  return {.cache_directory = surroundings.cache_directory,
          .host = surroundings.host,
          .progress = progress_options(2, surroundings.no_color, surroundings.term),
          .interrupted = surroundings.interrupted,
          .resume = std::move(resume)};
}

int train(const TrainArguments& arguments, const ProcessEnvironment& surroundings,
          const MpiSession& session) {
  DeviceWorld chosen = world_for(arguments.device, session);
  Recipe recipe = read_recipe(arguments.recipe, arguments.overrides, chosen.world.get());
  const ProcessGrid grid = grid_for(recipe, arguments.recipe, surroundings, std::move(chosen.world));
  Trainer trainer(recipe, grid, trainer_environment(surroundings, arguments.resume));
  const TrainResult result = trainer.run();
  if (grid.world().rank() == 0) {
    fmt::print("{} {} steps{} in {:.1f} s of training", result.interrupted ? "interrupted after" : "trained",
               result.taken, result.taken < result.steps ? fmt::format(", to step {},", result.steps) : "",
               result.train_seconds);
    for (const auto& [task, test] : result.test) {
      fmt::print("; {}test ", result.test.size() == 1 ? "" : task + " ");
      if (test.accuracy)
        fmt::print("accuracy {:.4f}", *test.accuracy);
      else
        fmt::print("loss {:.4f}", test.loss);
      if (test.macro_f1) fmt::print(", macro F1 {:.4f}", *test.macro_f1);
    }
    fmt::print("; checkpoints in {}\n", recipe.run.directory);
    if (result.saves > 0 && result.seconds_per_step > 0) {
      const double stall = result.save_seconds / static_cast<double>(result.saves);
      fmt::print("{} checkpoints held training up for {:.1f} ms each, {:.1f}% of a step\n", result.saves,
                 1e3 * stall, 100 * stall / result.seconds_per_step);
    }
  }
  if (!result.unsaved.empty()) {
    if (grid.world().rank() == 0) {
      const bool some = newest_checkpoint(recipe.run.directory, Verify::structure).has_value();
      complain("what was trained", some ? " since the newest checkpoint" : "", " is lost: ", result.unsaved,
               "; when that is repaired, --resume auto ",
               some ? "continues from that checkpoint" : "begins anew, as there is no checkpoint");
    }
    return 1;
  }
  return result.interrupted ? 130 : 0;
}

}  // namespace conclave::commands

#include <omp.h>

#include <nlohmann/json.hpp>

#include "core/print_line.h"
#include "federated/privacy/privacy_marks.h"
#include "recipes/commands/commands.h"
#include "recipes/federated/simulation.h"
#include "recipes/models/use_precision.h"
#include "recipes/settings/federation.h"
#include "recipes/settings/plugins.h"
#include "recipes/training/run_folder.h"

namespace conclave::commands {
namespace {

std::string figures(const Evaluation& result) {
  return fmt::format("{}loss {:.4f}",
                     result.accuracy ? fmt::format("accuracy {:.4f}, ", *result.accuracy) : "", result.loss);
}

// Describes the simulation before its first round.
void describe(const Simulation& simulation, const SimulationTable& table,
              const ClientPrivacyTable& private_by, int ranks) {
  fmt::print(
      "clients: {} examples among {} of {}, {} in a round; {} ranks of {} threads; a model of {} "
      "parameters\n",
      simulation.training_examples(), simulation.clients_with_examples(), table.clients, table.cohort, ranks,
      omp_get_max_threads(), simulation.elements());
  for (const std::string& line :
       describe_privacy({{"privacy_before", nlohmann::json::parse(simulation.privacy_before())}}))
    fmt::print("{}; what follows does not count it\n", line);
  const ClientPrivacy* privacy = simulation.privacy();
  if (!privacy) return;
  fmt::print(
      "privacy: of {} rounds in each of which a client is with probability {:.5f}, noise of {:.4f} x {}{}: "
      "epsilon {:.4f} at delta {}{}\n",
      privacy->rounds(), privacy->sampling_rate(), privacy->noise_multiplier(), private_by.clip_norm,
      private_by.adaptive ? " at first" : "", privacy->epsilon(privacy->rounds()), private_by.delta,
      privacy->rounds() < table.rounds ? fmt::format("; the budget of {} has no room for the other {}",
                                                     private_by.epsilon, table.rounds - privacy->rounds())
                                       : "");
  std::fflush(stdout);
}

void report(const Simulation& simulation, const SimulatedRound& round, MetricsWriter& metrics) {
  const double speed = static_cast<double>(round.clients) / round.seconds;
  std::string text = fmt::format("round {} of {}: loss {:.4f}, {} clients in {:.2f} s, {:.0f} per second",
                                 simulation.rounds_done(), simulation.rounds(), round.loss, round.clients,
                                 round.seconds, speed);
  std::vector<Metric> values;
  values.emplace_back("train/loss", round.loss);
  values.emplace_back("train/clients", static_cast<double>(round.clients));
  values.emplace_back("train/clients_per_second", speed);
  if (const ClientPrivacy* privacy = simulation.privacy()) {
    const double epsilon = privacy->epsilon(simulation.rounds_done());
    text += fmt::format(", epsilon {:.4f}, clipped to {:.4g}", epsilon, round.clip_norm);
    values.emplace_back("privacy/epsilon", epsilon);
    values.emplace_back("privacy/clip_norm", round.clip_norm);
  }
  if (round.diverged > 0)
    text += fmt::format("; {} updates were not finite and count as none: try a lower simulation.client_rate",
                        round.diverged);
  print_line(stdout, text);
  metrics.write(simulation.rounds_done(), values);
}

}  // namespace

int federate_simulate(const SimulateArguments& arguments, const ProcessEnvironment& surroundings,
                      const MpiSession& session) {
  std::vector<std::string> of_recipe = arguments.overrides;
  auto world = session.world();
  const std::vector<std::string> own = take_simulation_keys(of_recipe);
  SimulationSettings settings = read_simulation(arguments.simulation, own, world.get());
  load_plugins(settings, arguments.simulation, world.get());
  const SimulationTable& table = settings.simulation;
  Recipe recipe = read_recipe(table.recipe, of_recipe, world.get());
  recipe.run.directory = table.directory;
  recipe.parallel.expert_parallel = 1;  // each rank has clients of its own, and the whole model
  load_plugins(recipe, table.recipe, world.get());
  // A step of a few examples is over before a second thread has begun, so the cores are used by more ranks.
  const bool given = recipe.run.threads > 0 || surroundings.omp_threads_given;
  set_threads(given ? recipe.run.threads : 1, surroundings, *world);
  use_precision(recipe.run);
  const ProcessGrid grid(std::move(world), 1);
  const bool speaks = grid.world().rank() == 0;
  RunFolder folder(table.directory, grid.world());
  SystemRandom random;
  Simulation simulation(settings, recipe, grid, surroundings.cache_directory, random);
  if (speaks) describe(simulation, table, settings.client_privacy, grid.world().size());
  const std::string aside = folder.take("", 0);
  if (speaks && !aside.empty()) fmt::print("{}\n", aside);
  const std::unique_ptr<MetricsWriter> metrics = folder.metrics(
      surroundings.host, [](const std::string& text) { print_line(stdout, "warning: ", text); });
  const auto tell = [&](const char* split, const std::optional<Evaluation>& result) {
    if (!speaks || !result) return;
    fmt::print("{}: {}\n", split, figures(*result));
    std::vector<Metric> values;
    const std::string loss = std::string(split) + "/loss", accuracy = std::string(split) + "/accuracy";
    values.emplace_back(loss, result->loss);
    if (result->accuracy) values.emplace_back(accuracy, *result->accuracy);
    metrics->write(simulation.rounds_done(), values);
  };
  bool interrupted = false;
  double clients = 0, seconds = 0;
  while (simulation.rounds_done() < simulation.rounds() && !interrupted) {
    const SimulatedRound round = simulation.round(surroundings.interrupted);
    interrupted = round.interrupted;
    if (interrupted) break;
    clients += static_cast<double>(round.clients);
    seconds += round.seconds;
    if (speaks) report(simulation, round, *metrics);
    if (table.evaluate_every > 0 && simulation.rounds_done() % table.evaluate_every == 0)
      tell("validation", simulation.validate());
  }
  if (!interrupted) tell("test", simulation.test());
  const std::string saved = simulation.save();
  if (speaks)
    fmt::print("{} {} rounds, {:.0f} clients in {:.1f} s, {:.0f} per second; the model is {}\n",
               interrupted ? "interrupted after" : "simulated", simulation.rounds_done(), clients, seconds,
               clients / std::max(seconds, 1e-9), saved);
  return interrupted ? 130 : 0;
}

}  // namespace conclave::commands

#include "recipes/bench/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "recipes/commands/commands.h"
#include "recipes/models/loaded_model.h"

namespace conclave::commands {
namespace {

struct Setting {
  const ProcessGrid& grid;
  const std::string& cache_directory;
  std::int64_t repetitions;
  const std::string& checkpoint;              // "": none was given
  const std::vector<std::string>& overrides;  // of its recipe
};

struct Measurement {
  std::string_view name;
  void (*alone)(const Setting&);  // either is null if there is no such measurement
  void (*between_ranks)(const Setting&);
  bool of_checkpoint = false;
};

constexpr Measurement kMeasurements[] = {
    {"peak", [](const Setting& s) { bench::peak(s.repetitions); }, nullptr},
    {"grouped", [](const Setting& s) { bench::grouped(s.repetitions); }, nullptr},
    {"convolution", [](const Setting& s) { bench::convolution(s.repetitions); }, nullptr},
    {"layer_norm", [](const Setting& s) { bench::layer_norm(s.repetitions); }, nullptr},
    {"lstm", [](const Setting& s) { bench::lstm(s.repetitions); }, nullptr},
    {"int8", [](const Setting& s) { bench::integers(s.repetitions); }, nullptr},
    {"aggregation", [](const Setting& s) { bench::aggregation(s.repetitions); }, nullptr},
    {"moe", [](const Setting& s) { bench::moe(s.grid, s.repetitions); }, nullptr},
    {"privacy", [](const Setting& s) { bench::private_step(s.grid, s.repetitions); }, nullptr},
    {"routing", [](const Setting& s) { bench::routing_cache(s.grid, s.repetitions); },
     [](const Setting& s) { bench::routing_balance(s.grid, s.repetitions); }},
    {"batching", [](const Setting& s) { bench::batching(s.grid, s.cache_directory, s.repetitions); },
     nullptr},
    {"latency", [](const Setting& s) { bench::latency(s.grid, s.checkpoint, s.overrides, s.repetitions); },
     nullptr, true},
    {"secure_aggregation", [](const Setting& s) { bench::secure_aggregation_sum(s.repetitions); }, nullptr},
    {"upload", [](const Setting& s) { bench::upload(s.repetitions); }, nullptr},
    {"dispatch", nullptr, [](const Setting& s) { bench::dispatch(s.grid, s.repetitions); }},
};

}  // namespace

std::string bench_names() {
  std::string names;
  for (const Measurement& measurement : kMeasurements)
    names.append(names.empty() ? "" : ", ").append(measurement.name);
  return names;
}

int bench(const BenchArguments& arguments, const ProcessEnvironment& surroundings,
          const MpiSession& session) {
  auto world = session.world();
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  const bool alone = grid.world().size() == 1, first = grid.world().rank() == 0;
  const Setting setting{grid, surroundings.cache_directory, arguments.repetitions, arguments.checkpoint,
                        arguments.overrides};

  require(arguments.overrides.empty() || !arguments.checkpoint.empty(),
          "--set changes the recipe of a --checkpoint, and there is none");
  for (const std::string& name : arguments.names)
    require(std::ranges::find(kMeasurements, name, &Measurement::name) != std::end(kMeasurements),
            "nothing is measured by the name '{}'; there are: {}", name, bench_names());
  for (const auto& [name, on_one, on_several, of_checkpoint] : kMeasurements) {
    const bool asked = std::ranges::find(arguments.names, name) != arguments.names.end();
    if (!asked && !arguments.names.empty()) continue;
    const auto measure = alone ? on_one : on_several;
    std::string missing;
    if (!measure && alone)
      missing = fmt::format("{0} is measured between ranks: mpirun -n 2 conclave bench {0}", name);
    else if (!measure)
      missing = fmt::format("{} is measured in one process, without mpirun", name);
    else if (of_checkpoint && setting.checkpoint.empty())
      missing = fmt::format("{0} is measured of a model: conclave bench {0} --checkpoint CHECKPOINT", name);
    require(missing.empty() || !asked, "{}", missing);
    if (missing.empty())
      measure(setting);
    else if (first && alone)  // on several ranks, most measurements would be listed
      fmt::print("{}\n", missing);
  }
  return 0;
}

}  // namespace conclave::commands

#include "recipes/bench/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "recipes/commands/commands.h"

namespace conclave::commands {

int bench(const BenchArguments& arguments, const Surroundings& surroundings, const MpiSession& session) {
  auto world = session.world();
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  const bool alone = grid.world().size() == 1, first = grid.world().rank() == 0;

  struct Measurement {
    const char* name;
    std::function<void()> alone, between_ranks;  // where it can be measured
  };
  const auto repetitions = arguments.repetitions;
  const Measurement measurements[] = {
      {"peak", [&] { bench::peak(repetitions); }, {}},
      {"grouped", [&] { bench::grouped(repetitions); }, {}},
      {"convolution", [&] { bench::convolution(repetitions); }, {}},
      {"layer_norm", [&] { bench::layer_norm(repetitions); }, {}},
      {"lstm", [&] { bench::lstm(repetitions); }, {}},
      {"moe", [&] { bench::moe(grid, repetitions); }, {}},
      {"routing", [&] { bench::routing_cache(grid, repetitions); },
       [&] { bench::routing_balance(grid, repetitions); }},
      {"batching", [&] { bench::batching(grid, surroundings.cache_directory, repetitions); }, {}},
      {"dispatch", {}, [&] { bench::dispatch(grid, repetitions); }},
  };
  for (const std::string& name : arguments.names)
    require(std::ranges::any_of(measurements, [&](const auto& known) { return name == known.name; }),
            "nothing is measured by the name '{}'; there are: peak, grouped, convolution, layer_norm, lstm, "
            "moe, routing, "
            "batching, dispatch",
            name);
  for (const auto& [name, on_one, on_several] : measurements) {
    const bool asked = std::ranges::find(arguments.names, name) != arguments.names.end();
    if (!asked && !arguments.names.empty()) continue;
    if (const auto& measure = alone ? on_one : on_several)
      measure();
    else if (first && alone)
      fmt::print("{0} is measured between ranks: mpirun -n 2 conclave bench {0}\n", name);
    else if (first && asked)
      fmt::print("{} is measured in one process, without mpirun\n", name);
  }
  return 0;
}

}  // namespace conclave::commands

#include "recipes/bench/bench.h"

#include <fmt/format.h>

#include "recipes/commands/commands.h"

namespace conclave::commands {

int bench(const BenchArguments& arguments, const Surroundings& surroundings, const MpiSession& session) {
  auto world = session.world();
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  const bool alone = grid.world().size() == 1, first = grid.world().rank() == 0;

  std::vector<std::string> names = arguments.names;
  if (names.empty())
    names = alone ? std::vector<std::string>{"peak", "grouped", "lstm", "moe", "dispatch"}
                  : std::vector<std::string>{"dispatch"};
  for (const std::string& name : names) {
    const bool between_ranks = name == "dispatch";
    require(between_ranks || name == "peak" || name == "grouped" || name == "lstm" || name == "moe",
            "nothing is measured by the name '{}'; there are: peak, grouped, lstm, moe, dispatch", name);
    if (between_ranks == alone) {
      const char* how = alone ? "is measured between ranks: mpirun -n 2 conclave bench dispatch"
                              : "is measured in one process, without mpirun";
      if (first) fmt::print("{} {}\n", name, how);
      continue;
    }
    if (name == "peak") bench::peak(arguments.repetitions);
    if (name == "grouped") bench::grouped(arguments.repetitions);
    if (name == "lstm") bench::lstm(arguments.repetitions);
    if (name == "moe") bench::moe(grid, arguments.repetitions);
    if (name == "dispatch") bench::dispatch(grid, arguments.repetitions);
  }
  return 0;
}

}  // namespace conclave::commands

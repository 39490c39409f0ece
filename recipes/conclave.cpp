// The program, and what it takes from its surroundings. What it can do: commands/command_line.cpp.
#include <cstdlib>

#include <unistd.h>

#include "recipes/commands/command_line.h"

namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

conclave::commands::Surroundings surroundings() {
  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  std::string cache = environment("XDG_CACHE_HOME");
  if (cache.empty() && !environment("HOME").empty()) cache = environment("HOME") + "/.cache";
  return {.cache_directory = cache.empty() ? "" : cache + "/conclave",
          .host = host,
          .omp_threads_given = !environment("OMP_NUM_THREADS").empty(),
          .no_color = std::getenv("NO_COLOR"),
          .term = std::getenv("TERM")};
}

}  // namespace

int main(int argc, char** argv) {
  return conclave::commands::run_command_line(argc, argv, CONCLAVE_VERSION, surroundings());
}

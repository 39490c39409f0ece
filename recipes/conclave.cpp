// The entry of the program, and what it reads from its environment. The commands are in
// commands/command_line.cpp.
#include <sys/auxv.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string_view>

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
          .term = std::getenv("TERM"),
          .ranks = std::max(std::atoi(environment("OMPI_COMM_WORLD_SIZE").c_str()), 1)};
}

// An OpenMP thread that has finished its part of a loop spins while it waits for the others, with GCC for
// some 10 ms. If other processes want the cores, too, each of thousands of loops takes that long. Two
// trainings of a small model side by side take 45 s with that, and 3 s with a spin of a tenth of a
// millisecond, as set here; one alone takes 1 s with either. GOMP_SPINCOUNT is read before main(), so the
// program must start itself again to set it; if that is not possible, nothing changes. serve and bench are
// left out, because they have the cores for themselves.
void spin_briefly(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "serve" || command == "bench") return;
  if (std::getenv("GOMP_SPINCOUNT") || std::getenv("OMP_WAIT_POLICY")) return;
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) return;
  path[length] = '\0';
  // If the loader was started with this program as its argument, /proc/self/exe is the loader.
  std::error_code none;
  if (!std::filesystem::equivalent(path, reinterpret_cast<const char*>(getauxval(AT_EXECFN)), none)) return;
  setenv("GOMP_SPINCOUNT", "3000", 1);
  execv(path, argv);
}

}  // namespace

int main(int argc, char** argv) {
  spin_briefly(argc, argv);
  return conclave::commands::run_command_line(argc, argv, CONCLAVE_VERSION, surroundings());
}

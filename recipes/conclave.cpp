// The entry of the program, and what it reads from its environment. The commands are in
// commands/command_line.cpp.
#include <cblas.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "recipes/commands/command_line.h"

namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

conclave::commands::ProcessEnvironment surroundings() {
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

using Setting = std::pair<const char*, const char*>;  // of the environment

// An OpenMP thread that has finished its part of a loop spins while it waits for the others, with GCC for
// some 10 ms. If other threads want the cores, too, each of thousands of loops takes that long. Two trainings
// of a small model side by side take 45 s with that, and 3 s with a spin of a tenth of a millisecond; one
// alone takes 1 s with either. A service has threads for its connections beside those for its batches. It
// spins twice as long as that, because a lone client's requests are some 0.2 ms apart. bench has the cores
// for itself.
void spin_briefly(std::string_view command, std::vector<Setting>& settings) {
  if (command == "bench" || std::getenv("GOMP_SPINCOUNT") || std::getenv("OMP_WAIT_POLICY")) return;
  settings.emplace_back("GOMP_SPINCOUNT", command == "serve" ? "6000" : "3000");
}

// OpenBLAS knows processors by their numbers, and takes those that are newer than itself (for 0.3.21: Intel's
// Emerald Rapids of 2023) for a Pentium 4 of 2004. quick.toml then trains at 17,000 tokens per second instead
// of 57,000.
void choose_blas_kernels(std::vector<Setting>& settings) {
#if defined(__x86_64__)
  constexpr std::array kBeforeAvx2{"Prescott", "Core2", "Penryn",     "Dunnington",
                                   "Nehalem",  "Atom",  "Sandybridge"};
  const std::string_view chosen = openblas_get_corename();
  if (std::getenv("OPENBLAS_CORETYPE") || std::ranges::find(kBeforeAvx2, chosen) == kBeforeAvx2.end()) return;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    settings.emplace_back("OPENBLAS_CORETYPE", "SkylakeX");
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    settings.emplace_back("OPENBLAS_CORETYPE", "Haswell");
#else
  (void)settings;
#endif
}

// Libraries read these settings before main(), so the program starts itself again to set them. If that is not
// possible, or CONCLAVE_NO_RESTART=1 forbids it, nothing changes. core/README.md describes this.
void start_again(const std::vector<Setting>& settings, char** argv) {
  if (settings.empty() || environment("CONCLAVE_NO_RESTART") == "1") return;
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) return;
  path[length] = '\0';
  // If the loader was started with this program as its argument, /proc/self/exe is the loader.
  std::error_code none;
  if (!std::filesystem::equivalent(path, reinterpret_cast<const char*>(getauxval(AT_EXECFN)), none)) return;
  for (const auto& [name, value] : settings) setenv(name, value, 1);
  execv(path, argv);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Setting> settings;
  spin_briefly(argc > 1 ? argv[1] : "", settings);
  choose_blas_kernels(settings);
  start_again(settings, argv);
  return conclave::commands::run_command_line(argc, argv, CONCLAVE_VERSION, surroundings());
}

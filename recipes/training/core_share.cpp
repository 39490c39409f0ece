#include "recipes/training/core_share.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <vector>

namespace conclave {

std::string cores_of_process() {
  std::string cores;
  const auto add = [&](int core) {
    cores.resize(std::max(cores.size(), static_cast<std::size_t>(core) + 1), '0');
    cores[static_cast<std::size_t>(core)] = '1';
  };
  if (omp_get_num_places() > 0) {  // then OpenMP has bound the first thread to one of the places
    for (int place = 0; place < omp_get_num_places(); ++place) {
      std::vector<int> ids(static_cast<std::size_t>(omp_get_place_num_procs(place)));
      omp_get_place_proc_ids(place, ids.data());
      std::ranges::for_each(ids, add);
    }
    return cores;
  }
  for (int most = CPU_SETSIZE; most <= 1 << 20;
       most *= 2) {  // the kernel wants room for all cores that it may have
    std::vector<cpu_set_t> set(CPU_ALLOC_SIZE(most) / sizeof(cpu_set_t));
    const std::size_t bytes = set.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, set.data()) != 0) continue;
    for (int core = 0; core < most; ++core)
      if (CPU_ISSET_S(static_cast<std::size_t>(core), bytes, set.data())) add(core);
    return cores;
  }
  return "1";
}

std::int64_t threads_for(const std::string& mine, std::span<const std::string> neighbours) {
  double threads = 0;
  for (std::size_t core = 0; core < mine.size(); ++core) {
    if (mine[core] != '1') continue;
    const auto sharing = std::ranges::count_if(
        neighbours, [&](const std::string& other) { return core < other.size() && other[core] == '1'; });
    threads += 1.0 / static_cast<double>(std::max<std::ptrdiff_t>(sharing, 1));
  }
  return std::max<std::int64_t>(static_cast<std::int64_t>(threads + 1e-6), 1);
}

bool bind_threads() {
  for (const char* setting : {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"})
    if (std::getenv(setting)) return false;
  const std::string cores = cores_of_process();
  std::vector<std::size_t> mine;
  for (std::size_t core = 0; core < cores.size(); ++core)
    if (cores[core] == '1') mine.push_back(core);
  const auto cores_here = static_cast<int>(mine.size());
  if (omp_get_max_threads() != cores_here || omp_get_thread_limit() < cores_here || omp_get_dynamic())
    return false;
  // Most of several processes' first threads, which also do what is not divided, are on different cores.
  std::ranges::rotate(mine, mine.begin() + ::getpid() % cores_here);
  std::atomic<bool> all = true;
#pragma omp parallel
  {
    std::vector<cpu_set_t> set(CPU_ALLOC_SIZE(cores.size()) / sizeof(cpu_set_t) + 1);
    const std::size_t bytes = set.size() * sizeof(cpu_set_t);
    CPU_ZERO_S(bytes, set.data());
    CPU_SET_S(mine[static_cast<std::size_t>(omp_get_thread_num())], bytes, set.data());
    if (sched_setaffinity(0, bytes, set.data()) != 0) all = false;
  }
  return all;
}

}  // namespace conclave

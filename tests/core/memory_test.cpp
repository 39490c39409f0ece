#include "core/memory.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <limits>

#include "tests/data/temporary_directory.h"

namespace conclave {
namespace {

// A folder in place of "/", with the files that describe a machine's memory.
struct Machine : TemporaryDirectory {
  void says(const std::string& file, const std::string& content) const {
    std::filesystem::create_directories(std::filesystem::path(path() + "/" + file).parent_path());
    write(file, content);
  }
};

TEST_CASE("without limits, the available memory is what the system reports", "[memory]") {
  const Machine machine;
  CHECK(available_memory(machine.path()) == std::numeric_limits<std::size_t>::max());  // no files: unknown
  machine.says("proc/meminfo", "MemTotal:        8000 kB\nMemFree:   10 kB\nMemAvailable:    5000 kB\n");
  CHECK(available_memory(machine.path()) == 5000 * 1024);
  machine.says("proc/self/cgroup", "0::/user.slice\n");
  machine.says("sys/fs/cgroup/user.slice/memory.max", "max\n");
  machine.says("sys/fs/cgroup/user.slice/memory.current", "4096\n");
  CHECK(available_memory(machine.path()) == 5000 * 1024);
}

TEST_CASE("the limit of a control group or of a parent group reduces available memory", "[memory]") {
  const Machine machine;
  machine.says("proc/meminfo", "MemAvailable:    5000 kB\n");
  machine.says("proc/self/cgroup", "0::/outer/inner\n");
  machine.says("sys/fs/cgroup/outer/memory.max", "1000000\n");
  machine.says("sys/fs/cgroup/outer/memory.current", "300000\n");
  CHECK(available_memory(machine.path()) == 700000);
  machine.says("sys/fs/cgroup/outer/memory.stat", "anon 5\nfile 250000\ninactive_file 100000\n");
  CHECK(available_memory(machine.path()) == 800000);
  machine.says("sys/fs/cgroup/outer/inner/memory.max", "500000\n");
  machine.says("sys/fs/cgroup/outer/inner/memory.current", "200000\n");
  CHECK(available_memory(machine.path()) == 300000);
  machine.says("sys/fs/cgroup/outer/inner/memory.current", "600000\n");
  CHECK(available_memory(machine.path()) == 0);
}

TEST_CASE("control groups of version 1 are read too, also from inside a container", "[memory]") {
  const Machine machine;
  machine.says("proc/meminfo", "MemAvailable:    5000 kB\n");
  machine.says("proc/self/cgroup", "3:cpuset:/job\n2:cpu,memory:/host/path\n0::/\n");
  machine.says("sys/fs/cgroup/memory/memory.limit_in_bytes", "90000\n");
  machine.says("sys/fs/cgroup/memory/memory.usage_in_bytes", "50000\n");
  machine.says("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 20000\n");
  CHECK(available_memory(machine.path()) == 60000);
  machine.says("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");  // means no limit
  CHECK(available_memory(machine.path()) == 5000 * 1024);
}

TEST_CASE("this machine has a plausible amount of available memory", "[memory]") {
  CHECK(available_memory() > std::size_t{1} << 20);
  CHECK(available_memory() < std::size_t{1} << 50);
}

}  // namespace
}  // namespace conclave

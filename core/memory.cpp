#include "core/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace conclave {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kUnknown = std::numeric_limits<std::size_t>::max();

// The number after the word `name` in a file of names and numbers.
std::optional<std::size_t> named_number(const fs::path& path, const std::string& name) {
  std::ifstream file(path);
  std::size_t value = 0;
  for (std::string word; file >> word;)
    if (word == name && file >> value) return value;
  return std::nullopt;
}

// The number that a file holds; none if the file says "max" or does not exist.
std::optional<std::size_t> number(const fs::path& path) {
  std::ifstream file(path);
  std::size_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;
}

// The files of a control group; versions 1 and 2 name them differently.
struct GroupFiles {
  const char *limit, *usage, *reclaimable;
};

// What the limits of the group `path` below `mount`, and of the groups above it, leave. In a container,
// `path` may be the host's path while `mount` is the group itself: a directory that does not exist has no
// limit.
std::size_t left_in_groups(const fs::path& mount, fs::path path, const GroupFiles& files) {
  std::size_t left = kUnknown;
  for (path = path.relative_path();; path = path.parent_path()) {
    const fs::path group = mount / path;
    if (const auto limit = number(group / files.limit)) {
      // Cached pages of files that were not used lately count as used, but are reclaimed on demand.
      const std::size_t usage = number(group / files.usage).value_or(0);
      const std::size_t taken =
          usage - std::min(usage, named_number(group / "memory.stat", files.reclaimable).value_or(0));
      left = std::min(left, *limit - std::min(*limit, taken));
    }
    if (path.empty()) return left;
  }
}

}  // namespace

std::size_t available_memory(const fs::path& root) {
  std::size_t available = kUnknown;
  if (const auto kib = named_number(root / "proc/meminfo", "MemAvailable:")) available = *kib * 1024;

  const fs::path mount = root / "sys/fs/cgroup";
  std::ifstream groups(root / "proc/self/cgroup");  // lines "number:controllers:path"
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1),
                      path = line.substr(second + 1);
    std::size_t left = kUnknown;
    if (controllers.empty())
      left = left_in_groups(mount, path, {"memory.max", "memory.current", "inactive_file"});
    else if (("," + controllers + ",").find(",memory,") != std::string::npos)
      left = left_in_groups(mount / "memory", path,
                            {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"});
    available = std::min(available, left);
  }
  return available;
}

}  // namespace conclave

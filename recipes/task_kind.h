// What models do, and the names of it in recipes, checkpoints, metrics, answers and paths of the service.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace conclave {

/// `embed` is not trained: a service answers it with the features of a classifier.
enum class TaskKind : std::uint8_t { classify, caption, generate, embed };
inline constexpr std::array kTrainedTasks{TaskKind::classify, TaskKind::caption, TaskKind::generate};

/// Indexed by TaskKind.
inline constexpr std::array<std::string_view, 4> kTaskNames{"classify", "caption", "generate", "embed"};
static_assert(kTaskNames.size() == static_cast<std::size_t>(TaskKind::embed) + 1);  // embed is the last
inline constexpr std::string_view name_of(TaskKind task) {
  return kTaskNames[static_cast<std::size_t>(task)];
}
/// Inverse of name_of; nullopt for any other name.
inline constexpr std::optional<TaskKind> task_named(std::string_view name) {
  const auto found = std::ranges::find(kTaskNames, name);
  if (found == kTaskNames.end()) return std::nullopt;
  return static_cast<TaskKind>(found - kTaskNames.begin());
}

}  // namespace conclave

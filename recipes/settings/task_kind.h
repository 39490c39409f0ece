// What models do, and the names of it in recipes, checkpoints, metrics, answers and paths of the service.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace conclave {

/// A new task needs a row in find_traits() below; the compiler then names every `switch` that decides by task
/// (the README lists the other places). `embed` is not trained: a service answers it with the features of a
/// classifier.
enum class TaskKind : std::uint8_t { classify, caption, generate, embed };

/// Inputs of a query to a task.
enum class TaskInput : std::uint8_t {
  text,      ///< a text, and no image
  image,     ///< an image, and no text
  as_model,  ///< those that the model was trained on, or some of them
};

/// What sets a task apart from others. No member has a default, so that each row decides all of them.
struct TaskTraits {
  TaskKind kind;
  std::string_view name;
  TaskKind head;  ///< the task that a model must have learned to do this one; `kind` itself if it is trained
  bool captions;  ///< its examples are pairs of an image and a caption, so it needs data with images
  TaskInput input;  ///< of a query
  bool steps;       ///< the service answers it in many steps instead of one
  bool draws;       ///< its answers are images
  /// Each example has one loss, which nothing of other examples changes, and uses each weight once: private
  /// training and simulated clients can do the task.
  bool losses_per_example;
  bool classes;  ///< its answers are classes of the examples, by which it is measured
  bool causal;   ///< it predicts each token from those before it, which nothing may show it

  constexpr bool trained() const { return head == kind; }
};

/// The traits of a task; nullopt for numbers that are no task.
constexpr std::optional<TaskTraits> find_traits(TaskKind task) {
  switch (task) {
    case TaskKind::classify:
      return TaskTraits{.kind = task,
                        .name = "classify",
                        .head = TaskKind::classify,
                        .captions = false,
                        .input = TaskInput::as_model,
                        .steps = false,
                        .draws = false,
                        .losses_per_example = true,
                        .classes = true,
                        .causal = false};
    case TaskKind::caption:
      return TaskTraits{.kind = task,
                        .name = "caption",
                        .head = TaskKind::caption,
                        .captions = true,
                        .input = TaskInput::image,
                        .steps = true,
                        .draws = false,
                        .losses_per_example = false,
                        .classes = false,
                        .causal = true};
    case TaskKind::generate:
      return TaskTraits{.kind = task,
                        .name = "generate",
                        .head = TaskKind::generate,
                        .captions = true,
                        .input = TaskInput::text,
                        .steps = true,
                        .draws = true,
                        .losses_per_example = false,
                        .classes = false,
                        .causal = false};
    case TaskKind::embed:
      return TaskTraits{.kind = task,
                        .name = "embed",
                        .head = TaskKind::classify,
                        .captions = false,
                        .input = TaskInput::as_model,
                        .steps = false,
                        .draws = false,
                        .losses_per_example = false,
                        .classes = false,
                        .causal = false};
  }
  return std::nullopt;
}

inline constexpr std::size_t kTaskCount = [] {
  std::size_t count = 0;
  while (find_traits(static_cast<TaskKind>(count))) ++count;
  return count;
}();

/// A row for each task, indexed by TaskKind.
inline constexpr std::array<TaskTraits, kTaskCount> kAllTasks =
    []<std::size_t... i>(std::index_sequence<i...>) {
  return std::array{*find_traits(static_cast<TaskKind>(i))...};
}
(std::make_index_sequence<kTaskCount>());
inline constexpr const TaskTraits& traits_of(TaskKind task) {
  return kAllTasks[static_cast<std::size_t>(task)];
}

/// The names of the tasks for whose traits `holds` is true.
template <class Predicate>
std::vector<std::string_view> tasks_that(const Predicate& holds) {
  std::vector<std::string_view> names;
  for (const TaskTraits& task : kAllTasks)
    if (std::invoke(holds, task)) names.push_back(task.name);
  return names;
}

/// Indexed by TaskKind.
inline constexpr std::array<std::string_view, kTaskCount> kTaskNames = [] {
  std::array<std::string_view, kTaskCount> names;
  std::ranges::transform(kAllTasks, names.begin(), &TaskTraits::name);
  return names;
}();
inline constexpr std::string_view name_of(TaskKind task) { return traits_of(task).name; }
/// Inverse of name_of; nullopt for any other name.
inline constexpr std::optional<TaskKind> task_named(std::string_view name) {
  const auto found = std::ranges::find(kTaskNames, name);
  if (found == kTaskNames.end()) return std::nullopt;
  return static_cast<TaskKind>(found - kTaskNames.begin());
}

}  // namespace conclave

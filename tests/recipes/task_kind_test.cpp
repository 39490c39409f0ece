#include "recipes/settings/task_kind.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <utility>

#include "recipes/settings/recipe.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

TEST_CASE("every task has a row of traits, a name, and a head that is trained", "[task_kind]") {
  CHECK(kTaskCount == static_cast<std::size_t>(TaskKind::embed) + 1);
  CHECK_FALSE(find_traits(static_cast<TaskKind>(kTaskCount)));
  for (std::size_t i = 0; i < kTaskCount; ++i) {
    const auto task = static_cast<TaskKind>(i);
    CHECK(traits_of(task).kind == task);
    CHECK(task_named(name_of(task)) == task);
    CHECK(traits_of(traits_of(task).head).trained());
  }
  CHECK(task_named("draw") == std::nullopt);
}

TEST_CASE("private training refuses each task that does not say it has a loss per example", "[task_kind]") {
  for (const TaskTraits& task : kAllTasks) {
    if (!task.trained()) continue;
    const auto read = [&](const char* unit) {
      return parse_recipe(
          "", "r.toml",
          {"data.source=fashion_mnist", "privacy.noise_multiplier=1", "moe.balancer=none", "tasks.classify=0",
           fmt::format("tasks.{}=1", task.name), fmt::format("privacy.unit={}", unit)});
    };
    CHECK_NOTHROW(read("none"));
    if (task.losses_per_example)
      CHECK_NOTHROW(read("record"));
    else
      CHECK_THROWS_WITH(read("record"), Contains(fmt::format("tasks.{} = 1.0", task.name)) &&
                                            Contains("it is for \"classify\" alone, so far; set it to 0"));
  }
}

TEST_CASE("a recipe's tasks read captions as their traits say", "[task_kind]") {
  TasksRecipe tasks{.classify = 1, .caption = 0, .generate = 2};
  CHECK(tasks.trained() == std::vector{TaskKind::classify, TaskKind::generate});
  CHECK(tasks.read_captions());
  tasks.generate = 0;
  CHECK_FALSE(tasks.read_captions());
}

TEST_CASE("a recipe has texts and shows images where the traits of one of its tasks say so", "[task_kind]") {
  Recipe recipe;
  const auto needs = [&](const char* source, const char* inputs, TasksRecipe tasks) {
    recipe.data.source = source, recipe.data.inputs = inputs, recipe.tasks = tasks;
    return std::pair(recipe.has_texts(), recipe.shows_images());
  };
  const TasksRecipe classify{}, caption{.classify = 0, .caption = 1}, generate{.classify = 0, .generate = 1};
  CHECK(needs("wordnet", "both", classify) == std::pair(true, false));
  CHECK(needs("fashion_mnist", "both", classify) == std::pair(false, true));
  CHECK(needs("fashion_mnist", "both", caption) == std::pair(true, true));
  CHECK(needs("emoji", "image", generate) == std::pair(true, false));
}

}  // namespace
}  // namespace conclave

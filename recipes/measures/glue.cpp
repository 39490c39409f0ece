#include "recipes/measures/glue.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/error.h"
#include "data/glue.h"
#include "recipes/measures/classification.h"

namespace conclave {

double glue_prediction(std::string_view task, std::span<const float> logits) {
  const std::size_t classes = glue_task(task).class_names.size();
  require(logits.size() == classes, "{} logits, but {} has {} classes", logits.size(), task, classes);
  const auto best = guess_of(logits);
  if (!best) return std::numeric_limits<double>::quiet_NaN();
  if (!glue_task(task).has_scores()) return static_cast<double>(*best);
  double weights = 0, sum = 0;
  for (std::size_t score = 0; score < classes; ++score) {
    const double weight = std::exp(static_cast<double>(logits[score]) - static_cast<double>(logits[*best]));
    weights += weight;
    sum += weight * static_cast<double>(score);
  }
  return sum / weights;
}

std::vector<Measure> glue_measures(std::string_view task, std::span<const double> predictions,
                                   std::span<const double> labels) {
  if (glue_task(task).has_scores())
    return {{"pearson", pearson(predictions, labels)}, {"spearman", spearman(predictions, labels)}};
  // What is predicted to be of no class is counted as of one that no example is of.
  const auto none = static_cast<std::int32_t>(glue_task(task).class_names.size());
  const auto classes = [&](std::span<const double> numbers) {
    std::vector<std::int32_t> classes;
    for (const double number : numbers)
      classes.push_back(std::isnan(number) ? none : static_cast<std::int32_t>(number));
    return classes;
  };
  const auto predicted = classes(predictions), known = classes(labels);
  if (task == "cola") return {{"matthews", matthews(predicted, known)}};
  const Measure right{"accuracy", accuracy(predicted, known)};
  if (task == "mrpc" || task == "qqp") return {{"f1", f1(predicted, known)}, right};
  return {right};
}

}  // namespace conclave

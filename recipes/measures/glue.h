// GLUE's official measures of each task, computed from a model's logits.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace conclave {

struct Measure {
  std::string name;
  double value = 0;
};

/// The prediction from a model's logits, one for each class: the class with the highest logit; for stsb the
/// mean of the scores 0 to 5, weighted by the classes' probabilities. NaN where guess_of() has none; measures
/// of classes count this as wrong, others are then NaN, too.
double glue_prediction(std::string_view task, std::span<const float> logits);

/// The task's measures, in the order of GLUE's own table: cola matthews; mrpc and qqp f1 (of class 1) and
/// accuracy; stsb pearson and spearman; all others accuracy. `predictions` come from glue_prediction;
/// `labels` are the classes, or stsb's scores (TokenizedSplit::scores). For a task with two measures GLUE's
/// score is their mean.
std::vector<Measure> glue_measures(std::string_view task, std::span<const double> predictions,
                                   std::span<const double> labels);

}  // namespace conclave

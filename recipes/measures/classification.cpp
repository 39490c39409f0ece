#include "recipes/measures/classification.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/error.h"

namespace conclave {
namespace {

void check_sizes(std::size_t predicted, std::size_t known) {
  require(predicted == known && known > 0, "{} predictions for {} examples", predicted, known);
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

bool has_nan(Scores scores) {
  return std::ranges::any_of(scores, [](double score) { return std::isnan(score); });
}

// Of scores that can be ordered: none is NaN.
std::vector<double> ranks(Scores scores) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return scores[i]; });
  std::vector<double> ranks(scores.size());
  for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
    while (last < order.size() && scores[order[last]] == scores[order[first]]) ++last;
    for (std::size_t i = first; i < last; ++i) ranks[order[i]] = static_cast<double>(first + last - 1) / 2;
  }
  return ranks;
}

}  // namespace

std::optional<std::size_t> guess_of(std::span<const float> logits) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::optional<std::size_t> best;
  float largest = -kInfinity;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] < kInfinity)) return std::nullopt;
    if (logits[i] > largest) largest = logits[i], best = i;
  }
  return best;
}

double accuracy(Classes predicted, Classes labels) {
  check_sizes(predicted.size(), labels.size());
  double right = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) right += predicted[i] == labels[i];
  return right / static_cast<double>(labels.size());
}

double f1(Classes predicted, Classes labels, std::int32_t positive) {
  check_sizes(predicted.size(), labels.size());
  double right = 0, either = 0;  // tp and 2 tp + fp + fn
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const bool says = predicted[i] == positive, is = labels[i] == positive;
    right += says && is;
    either += says + is;
  }
  return either > 0 ? 2 * right / either : 0;
}

double matthews(Classes predicted, Classes labels) {
  check_sizes(predicted.size(), labels.size());
  const auto [least, most] = std::ranges::minmax(labels);
  const auto [least_said, most_said] = std::ranges::minmax(predicted);
  require(std::min(least, least_said) >= 0, "class {} is below 0", std::min(least, least_said));
  const auto classes = static_cast<std::size_t>(std::max(most, most_said)) + 1;
  std::vector<double> said(classes), known(classes);
  double right = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    right += predicted[i] == labels[i];
    ++said[static_cast<std::size_t>(predicted[i])];
    ++known[static_cast<std::size_t>(labels[i])];
  }
  const auto product = [](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  const auto n = static_cast<double>(labels.size());
  const double of_said = n * n - product(said, said), of_known = n * n - product(known, known);
  if (of_said == 0 || of_known == 0) return 0;
  return (right * n - product(said, known)) / std::sqrt(of_said * of_known);
}

double pearson(Scores predicted, Scores known) {
  check_sizes(predicted.size(), known.size());
  if (has_nan(predicted) || has_nan(known)) return kNan;
  const auto n = static_cast<double>(known.size());
  const double mean_predicted = std::accumulate(predicted.begin(), predicted.end(), 0.0) / n;
  const double mean_known = std::accumulate(known.begin(), known.end(), 0.0) / n;
  double together = 0, of_predicted = 0, of_known = 0;
  for (std::size_t i = 0; i < known.size(); ++i) {
    const double a = predicted[i] - mean_predicted, b = known[i] - mean_known;
    together += a * b;
    of_predicted += a * a;
    of_known += b * b;
  }
  const bool flat = std::ranges::minmax(predicted).min == std::ranges::minmax(predicted).max ||
                    std::ranges::minmax(known).min == std::ranges::minmax(known).max;
  return flat ? 0 : together / std::sqrt(of_predicted * of_known);
}

double spearman(Scores predicted, Scores known) {
  check_sizes(predicted.size(), known.size());
  if (has_nan(predicted) || has_nan(known)) return kNan;
  return pearson(ranks(predicted), ranks(known));
}

}  // namespace conclave

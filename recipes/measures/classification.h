// Measures of predictions that published results use. All sums are in f64, in the order of the examples. All
// functions throw Error if there are no examples, or if there are not as many predictions as labels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace conclave {

using Classes = std::span<const std::int32_t>;  ///< one for each example, from 0
using Scores = std::span<const double>;         ///< one for each example

/// The class with the largest logit, the first of several. None where kernels::cross_entropy counts no label
/// as right, because the row's sum of exponentials is no number: if a logit is NaN or plus infinity, or all
/// are minus infinity.
std::optional<std::size_t> guess_of(std::span<const float> logits);

/// The share of correct predictions.
double accuracy(Classes predicted, Classes labels);

/// F1 of the class `positive`, 2 tp / (2 tp + fp + fn); 0 if the class is neither predicted nor among the
/// labels.
double f1(Classes predicted, Classes labels, std::int32_t positive = 1);

/// Matthews' correlation for any number of classes (Gorodkin 2004); 0 if all predictions or all labels are
/// the same class.
double matthews(Classes predicted, Classes labels);

/// Pearson's correlation; 0 if all numbers of one side are equal, NaN if one of them is NaN.
double pearson(Scores predicted, Scores known);

/// Pearson's correlation of the ranks; equal numbers share their mean rank. NaN if a number is NaN.
double spearman(Scores predicted, Scores known);

}  // namespace conclave

// How well guesses fit what is known: the measures that tasks are published with. All sums are in f64 and in
// the order of the examples. They throw Error where there are no examples, or not as many guesses as labels.
#pragma once

#include <cstdint>
#include <span>

namespace conclave {

using Classes = std::span<const std::int32_t>;  ///< one for each example, from 0
using Scores = std::span<const double>;         ///< likewise

/// The share that is right.
double accuracy(Classes predicted, Classes labels);

/// 2 tp / (2 tp + fp + fn) of the class `positive`; 0 where it is neither predicted nor there.
double f1(Classes predicted, Classes labels, std::int32_t positive = 1);

/// Matthews' correlation, of any number of classes (Gorodkin 2004); 0 where all are predicted, or are, of
/// one.
double matthews(Classes predicted, Classes labels);

/// Pearson's correlation; 0 where all numbers of one side are equal.
double pearson(Scores predicted, Scores known);

/// Pearson's of the ranks, of which equal numbers share the mean.
double spearman(Scores predicted, Scores known);

}  // namespace conclave

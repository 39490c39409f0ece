// The nine tasks of GLUE (Wang et al. 2018) in the files that it is published as: folders CoLA, SST-2, MRPC,
// STS-B, QQP, MNLI, QNLI, RTE and WNLI with a train.tsv and a dev.tsv (MNLI's are dev_matched.tsv and
// dev_mismatched.tsv). Quotes in them are text.
//
// test.tsv has no labels and is not read. So the test split here is the whole of dev, whose figures can then
// be compared with those others publish of it; nothing is chosen by them. What is chosen is so by the
// validation split, a twentieth of train: the rows with crc32(first text) % 20 == 0, so that texts which
// share a premise or a question stand on one side.
//
// STS-B is to guess how alike two texts are, from 0 to 5. Here it is a task of six classes, the nearest whole
// scores, and the guess is the mean of the classes weighted by their probabilities (recipes/measures/glue.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/bad_inputs.h"
#include "data/dataset.h"

namespace conclave {

struct GlueTask {
  std::string_view name;                  ///< as in a recipe: "cola"
  std::string_view folder;                ///< "CoLA"
  std::string_view dev;                   ///< the file that becomes the test split
  std::string_view first, second, label;  ///< columns; CoLA's have no header, and single texts no second
  /// The values of the label's column, by class; of numbers, none: they are scores.
  std::vector<std::string_view> labels;
  std::vector<std::string_view> class_names;

  bool has_header() const { return name != "cola"; }
  bool has_pairs() const { return !second.empty(); }
  bool has_scores() const { return labels.empty(); }
};

inline constexpr double kHighestGlueScore = 5;

/// "mnli_mismatched" is MNLI with the other of its two devs, so that a model of either is tested on both.
std::span<const GlueTask> glue_tasks();
/// Throws Error, with the names there are, where `name` is none.
const GlueTask& glue_task(std::string_view name);

/// The rows of one of a task's labelled files. Throws Error with PATH:LINE and the column for a row of too
/// few or too many columns, a label that is none of the task's, and what is not UTF-8, but leaves out and
/// counts such rows where `bad` says so; and for a header that lacks a column, and a file without rows.
std::vector<TextExample> parse_glue(std::string_view content, const std::string& path, const GlueTask& task,
                                    BadInputs& bad);

/// `directory` holds the task's files, or its folder does (CoLA).
TextDataset read_glue(const std::string& directory, std::string_view task, BadInputs& bad);

}  // namespace conclave

// The nine tasks of GLUE (Wang et al. 2018) in their published files: folders CoLA, SST-2, MRPC, STS-B, QQP,
// MNLI, QNLI, RTE and WNLI with a train.tsv and a dev.tsv (for MNLI dev_matched.tsv and dev_mismatched.tsv).
// Quotes are ordinary characters of the text.
//
// test.tsv has no labels and is not read. The test split here is the whole of dev, so that its figures
// compare with published results on dev; no choice is made by it. Choices are made by the validation split, a
// twentieth of train: the rows with crc32(first text) % 20 == 0, so that rows that share a premise or a
// question are in the same split.
//
// STS-B is a regression: predict the similarity of two texts, from 0 to 5. Here it is a task of six classes,
// the score rounded to a whole number, and the predicted score is the mean of the classes weighted by their
// probabilities (recipes/measures/glue.h).
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
  std::string_view name;                  ///< name in a recipe: "cola"
  std::string_view folder;                ///< "CoLA"
  std::string_view dev;                   ///< the labelled file that becomes the test split
  std::string_view first, second, label;  ///< columns; `second` is "" for single texts
  /// The values of the label column, by class; empty if the column holds scores (STS-B).
  std::vector<std::string_view> labels;
  std::vector<std::string_view> class_names;

  bool has_header() const { return name != "cola"; }
  bool has_pairs() const { return !second.empty(); }
  bool has_scores() const { return labels.empty(); }
};

inline constexpr double kHighestGlueScore = 5;

/// All tasks. "mnli_mismatched" is MNLI with dev_mismatched.tsv as test split, so that a model of MNLI can be
/// tested on both.
std::span<const GlueTask> glue_tasks();
/// The task called `name`. Throws Error with the list of names if there is none.
const GlueTask& glue_task(std::string_view name);

/// Parses one of a task's labelled files. Throws Error with PATH:LINE and the column for a row with the wrong
/// number of columns, an unknown label or invalid UTF-8; such rows are skipped and counted instead if `bad`
/// says so. Also throws Error for a header that lacks a column and for a file without rows.
std::vector<TextExample> parse_glue(std::string_view content, const std::string& path, const GlueTask& task,
                                    BadInputs& bad);

/// Reads a task. `directory` holds either the task's files or its folder (e.g. CoLA).
TextDataset read_glue(const std::string& directory, std::string_view task, BadInputs& bad);

}  // namespace conclave

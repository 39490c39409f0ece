// A user's own labelled texts, one per row of a .csv, .tsv or .jsonl file (the extension decides, in either
// case). Either three files, or one that is split 90 / 5 / 5 by a hash of each text, so that a text's split
// does not change when rows are added or reordered, and equal texts never stand on both sides.
#pragma once

#include <cstdint>
#include <string>

#include "data/bad_inputs.h"
#include "data/dataset.h"

namespace conclave {

struct TextTableOptions {
  std::string path = {};                               ///< one file to split; or else
  std::string train = {}, validation = {}, test = {};  ///< three; the last two may be "": an empty split
  std::string text_column = "text";    ///< CSV and TSV: a name in the header row; JSONL: a key
  std::string label_column = "label";  ///< its values may be strings, integers, or JSON's true and false
  /// "": none. Texts are in the domain unless the value is empty, 0 or false (or, in JSONL, null or missing).
  std::string domain_column = {};
  std::string client_column =
      {};  ///< "": none. Rows of the same value, a string or an integer, are one client's.
};

inline constexpr std::size_t kLongestText = std::size_t{1} << 20;   ///< bytes; more is a broken file
inline constexpr std::size_t kLongestLabel = std::size_t{1} << 10;  ///< bytes; more is the wrong column
inline constexpr std::size_t kMostClasses = std::size_t{1} << 16;   ///< more is the wrong column

/// Class names are the sorted labels of the train split (of the whole file where there is one `path`): as
/// numbers where all are integers, else as bytes. Texts may be empty. A byte order mark is skipped; lines end
/// in LF or CRLF. Throws Error with FILE:LINE for a malformed row, invalid UTF-8, a label that the train
/// split lacks, or a value above the limits, but leaves out and counts such rows where `bad` says so; and for
/// a header that lacks a column, and misplaced quotes, after which nobody knows where a row ends. `bad` is
/// told of classes that are left without a training example, and of labels that are alike but for blanks.
TextDataset read_text_table(const TextTableOptions& options, BadInputs& bad);

}  // namespace conclave

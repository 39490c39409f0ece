// A user's own labelled texts, one per row of a .csv, .tsv or .jsonl file; the extension, in upper or lower
// case, selects the format. The data are three files, or one file that is split 90 / 5 / 5 by a hash of each
// text: adding rows changes no text's split, and equal texts are in the same split. If a column names
// clients, the hash is of the client, and all rows of a client are in the same split.
#pragma once

#include <cstdint>
#include <string>

#include "data/bad_inputs.h"
#include "data/dataset.h"

namespace conclave {

struct TextTableOptions {
  std::string path = {};                               ///< one file to split; or "" and the three files below
  std::string train = {}, validation = {}, test = {};  ///< the last two may be "": an empty split
  std::string text_column = "text";                    ///< CSV and TSV: a column name; JSONL: a key
  std::string label_column = "label";                  ///< strings, integers, or JSON's true and false
  /// "": none. A text is in the domain unless the value is empty, 0 or false (or, in JSONL, null or missing).
  std::string domain_column = {};
  /// "": none. Rows with the same value, a string or an integer, belong to one client.
  std::string client_column = {};
};

inline constexpr std::size_t kLongestText = std::size_t{1} << 20;   ///< bytes; more: a broken file
inline constexpr std::size_t kLongestLabel = std::size_t{1} << 10;  ///< bytes; more: the wrong column
inline constexpr std::size_t kMostClasses = std::size_t{1} << 16;   ///< more: the wrong column

/// Reads the texts. Class names are the labels of the train split (or of the whole file if there is one
/// `path`), sorted as numbers if all are integers, else as bytes. Texts may be empty. A byte order mark is
/// skipped; lines end in LF or CRLF. Throws Error with FILE:LINE for a malformed row, invalid UTF-8, a label
/// that the train split lacks, or a value above the limits; such rows are skipped and counted instead if
/// `bad` says so. Always throws Error for a header that lacks a column, and for misplaced quotes, after which
/// the end of the row is unknown. `bad` gets a warning about classes without a training example and about
/// labels that differ only in surrounding blanks.
TextDataset read_text_table(const TextTableOptions& options, BadInputs& bad);

}  // namespace conclave

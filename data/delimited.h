// Reads records of a CSV (RFC 4180) or TSV file. CSV fields may be quoted and then contain commas, doubled
// quotes and line ends. TSV fields are taken literally, quotes included, as GLUE's files and most others
// require. Lines end in LF or CRLF; empty lines are skipped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace conclave {

class DelimitedReader {
 public:
  enum class Format { csv, tsv };
  /// A record that is not valid and whose end is known: next() goes on with the record after it.
  class BadRecord : public Error {
   public:
    using Error::Error;
  };

  /// `content` must outlive the reader; `path` is for messages.
  DelimitedReader(std::string_view content, std::string path, Format format);

  /// Reads the next record into `fields`; false at the end. Throws Error with FILE:LINE for misplaced quotes,
  /// which is a BadRecord within an unquoted field.
  bool next(std::vector<std::string>& fields);

  /// Number of the line on which the last record began, from 1.
  std::int64_t line() const { return record_line_; }

 private:
  void skip_empty_lines();
  std::string quoted_field();
  std::string plain_field();

  std::string_view rest_;
  std::string path_;
  Format format_;
  std::int64_t line_ = 1, record_line_ = 0;
};

}  // namespace conclave

#include "data/delimited.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace conclave {

DelimitedReader::DelimitedReader(std::string_view content, std::string path, Format format)
    : rest_(content), path_(std::move(path)), format_(format) {}

void DelimitedReader::skip_empty_lines() {
  while (rest_.starts_with('\n') || rest_.starts_with("\r\n")) {
    rest_.remove_prefix(rest_[0] == '\n' ? 1 : 2);
    ++line_;
  }
}

std::string DelimitedReader::quoted_field() {
  const std::int64_t opened = line_;
  std::string field;
  while (true) {
    rest_.remove_prefix(1);  // the opening quote, or the second of a doubled one
    const std::size_t quote = rest_.find('"');
    require(quote != std::string_view::npos,
            "{}:{}: the quote opened on this line is never closed; write a "
            "quote within a field as two",
            path_, opened);
    const std::string_view piece = rest_.substr(0, quote);
    field += piece;
    line_ += std::count(piece.begin(), piece.end(), '\n');
    rest_.remove_prefix(quote + 1);
    if (!rest_.starts_with('"')) break;
    field += '"';
  }
  const bool ends = rest_.empty() || rest_[0] == ',' || rest_[0] == '\n' || rest_.starts_with("\r\n");
  require(ends, "{}:{}: text after a closing quote; {}", path_, line_,
          rest_.starts_with(';') ? "are the file's fields separated by semicolons? A .csv must use commas"
                                 : "write a quote within a field as two");
  if (rest_.starts_with('\r')) rest_.remove_prefix(1);
  return field;
}

std::string DelimitedReader::plain_field() {
  const char* ends = format_ == Format::csv ? ",\n" : "\t\n";
  const std::size_t end = std::min(rest_.find_first_of(ends), rest_.size());
  std::string_view field = rest_.substr(0, end);
  rest_.remove_prefix(end);
  const bool last = rest_.empty() || rest_[0] == '\n';
  if (last && field.ends_with('\r')) field.remove_suffix(1);
  if (format_ == Format::csv && field.find_first_of("\"\r") != std::string_view::npos) {
    const std::int64_t line = line_;
    rest_.remove_prefix(std::min(rest_.find('\n'), rest_.size()));  // the record ends here
    if (!rest_.empty()) rest_.remove_prefix(1), ++line_;
    throw BadRecord(fmt::format(
        "{}:{}: a quote or carriage return within an unquoted field; quote the whole field and write its "
        "quotes as two",
        path_, line));
  }
  return std::string(field);
}

bool DelimitedReader::next(std::vector<std::string>& fields) {
  fields.clear();
  skip_empty_lines();
  if (rest_.empty()) return false;
  record_line_ = line_;
  while (true) {
    const bool quoted = format_ == Format::csv && rest_.starts_with('"');
    fields.push_back(quoted ? quoted_field() : plain_field());
    if (rest_.empty()) return true;
    const bool end_of_line = rest_[0] == '\n';
    rest_.remove_prefix(1);
    if (end_of_line) {
      ++line_;
      return true;
    }
  }
}

}  // namespace conclave

#include "data/text_table.h"

#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/file.h"
#include "core/text.h"
#include "data/delimited.h"

namespace conclave {
namespace {

struct Row {
  std::string text, label;
  std::int64_t line = 0;
  bool in_domain = false;
  std::string client = {};
};

// "False" as pandas writes it, and "FALSE" as spreadsheets do, are no, too.
bool says_yes(std::string_view value) {
  return !value.empty() && value != "0" && !same_but_for_case(value, "false") &&
         !same_but_for_case(value, "no");
}

void require_utf8_row(std::string_view text, const std::string& path, std::int64_t line) {
  require(find_invalid_utf8(text) == std::string_view::npos,
          "{}:{}: invalid UTF-8; convert the file, e.g. with `iconv -f WINDOWS-1252 -t UTF-8`", path, line);
}

// A hint on what is wrong with a file that lacks a required column.
std::string_view header_advice(const std::vector<std::string>& header, DelimitedReader::Format format) {
  if (format == DelimitedReader::Format::tsv && header[0].starts_with('"'))
    return "; fields of a .tsv are not quoted: save the file as .csv, with commas between them";
  if (std::ranges::any_of(header,
                          [](const std::string& name) { return name.find(';') != std::string::npos; }))
    return "; is it separated by semicolons? A .csv must use commas, a .tsv tabs";
  return "";
}

void add_row(const std::string& path, Row row, std::vector<Row>& rows) {
  require(row.text.size() <= kLongestText,
          "{}:{}: a text of {} bytes, above the limit of {}; cut it into rows", path, row.line,
          row.text.size(), kLongestText);
  require(!row.label.empty(), "{}:{}: the label is empty; label the row or leave it out", path, row.line);
  require(row.label.size() <= kLongestLabel,
          "{}:{}: a label of {} bytes, above the limit of {}; is label_column right?", path, row.line,
          row.label.size(), kLongestLabel);
  require(row.client.size() <= kLongestLabel,
          "{}:{}: a client of {} bytes, above the limit of {}; is client_column right?", path, row.line,
          row.client.size(), kLongestLabel);
  rows.push_back(std::move(row));
}

std::vector<Row> read_delimited(const std::string& path, std::string_view content,
                                DelimitedReader::Format format, const TextTableOptions& options,
                                BadInputs& bad) {
  DelimitedReader reader(content, path, format);
  std::vector<std::string> header, fields;
  require(reader.next(header), "{}:1: the file is empty; its first line names the columns", path);
  for (const std::string& name : header) require_utf8_row(name, path, reader.line());
  const auto column = [&](const std::string& name) {
    const auto count = std::count(header.begin(), header.end(), name);
    require(count == 1, "{}:{}: the header needs one column named `{}`; it has: {}{}", path, reader.line(),
            name, fmt::join(header, ", "), count == 0 ? header_advice(header, format) : "");
    return static_cast<std::size_t>(std::find(header.begin(), header.end(), name) - header.begin());
  };
  const std::size_t text = column(options.text_column), label = column(options.label_column);
  const bool has_domain = !options.domain_column.empty();
  const std::size_t domain = has_domain ? column(options.domain_column) : 0;
  const bool has_client = !options.client_column.empty();
  const std::size_t client = has_client ? column(options.client_column) : 0;
  std::vector<Row> rows;
  const auto add = [&] {
    for (const std::string& field : fields) require_utf8_row(field, path, reader.line());
    require(fields.size() == header.size(), "{}:{}: {} fields, but the header has {}{}", path, reader.line(),
            fields.size(), header.size(),
            format == DelimitedReader::Format::csv ? "; quote a field that holds a comma" : "");
    const bool in_domain = has_domain && says_yes(fields[domain]);
    require(!has_client || !fields[client].empty(), "{}:{}: `{}` is empty; every row must name its client",
            path, reader.line(), options.client_column);
    std::string whose = has_client ? fields[client] : "";  // a copy: the client may be the label, too
    add_row(path,
            {std::move(fields[text]), std::move(fields[label]), reader.line(), in_domain, std::move(whose)},
            rows);
  };
  const auto next = [&] {
    while (true) try {
        return reader.next(fields);
      } catch (const DelimitedReader::BadRecord& error) {
        bad.attempt([&] { throw error; });
      }
  };
  while (next()) bad.attempt(add);
  return rows;
}

std::string text_of(const nlohmann::json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Row parse_json(const std::string& path, std::int64_t number, std::string_view line,
               const TextTableOptions& options) {
  require_utf8_row(line, path, number);
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(line);
  } catch (const nlohmann::json::exception& error) {
    fail("{}:{}: not JSON ({}); each line is one object", path, number, error.what());
  }
  require(object.is_object(), "{}:{}: a JSON {}, expected an object", path, number, object.type_name());
  const auto value = [&](const std::string& key) -> const nlohmann::json& {
    const auto found = object.find(key);
    require(
        found != object.end(),
        "{}:{}: no key `{}`; set data.text_column, label_column and client_column to the file's own names",
        path, number, key);
    return *found;
  };
  const nlohmann::json &text = value(options.text_column), &label = value(options.label_column);
  require(text.is_string(), "{}:{}: `{}` is a {}, expected a string", path, number, options.text_column,
          text.type_name());
  require(label.is_string() || label.is_number_integer() || label.is_boolean(),
          "{}:{}: `{}` is a {}, expected a string, an integer, true or false", path, number,
          options.label_column, label.is_number() ? "fraction" : label.type_name());
  const auto domain = options.domain_column.empty() ? object.end() : object.find(options.domain_column);
  const bool in_domain = domain != object.end() && !domain->is_null() && says_yes(text_of(*domain));
  std::string client;
  if (!options.client_column.empty()) {
    const nlohmann::json& whose = value(options.client_column);
    require((whose.is_string() && !whose.get_ref<const std::string&>().empty()) || whose.is_number_integer(),
            "{}:{}: `{}` is a {}, expected the row's client, a string or an integer", path, number,
            options.client_column, whose.is_string() ? "empty string" : whose.type_name());
    client = text_of(whose);
  }
  return {text.get<std::string>(), text_of(label), number, in_domain, std::move(client)};
}

std::vector<Row> read_jsonl(const std::string& path, std::string_view content,
                            const TextTableOptions& options, BadInputs& bad) {
  std::vector<Row> rows;
  std::int64_t number = 0;
  while (!content.empty()) {
    const std::string_view line = content.substr(0, content.find('\n'));
    content.remove_prefix(std::min(line.size() + 1, content.size()));
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    bad.attempt([&] { add_row(path, parse_json(path, number, line, options), rows); });
  }
  return rows;
}

std::vector<Row> read_rows(const std::string& path, const TextTableOptions& options, BadInputs& bad) {
  if (path.empty()) return {};
  std::error_code none;
  require(!std::filesystem::is_directory(path, none),
          "{}: is a folder; data.path names a file, .csv, .tsv or .jsonl, for source = \"table\"", path);
  const std::string extension = std::filesystem::path(path).extension().string();
  const bool csv = same_but_for_case(extension, ".csv"), jsonl = same_but_for_case(extension, ".jsonl");
  require(csv || jsonl || same_but_for_case(extension, ".tsv"),
          "{}: unknown extension `{}`; rename the file to .csv, .tsv or .jsonl", path, extension);
  const std::string bytes = read_file(path, "check the path in the recipe");
  std::string_view content = bytes;
  if (content.starts_with("\xEF\xBB\xBF")) content.remove_prefix(3);
  require(!content.starts_with("\xFF\xFE") && !content.starts_with("\xFE\xFF"),
          "{}: is UTF-16; convert the file with `iconv -f UTF-16 -t UTF-8`", path);
  if (jsonl) return read_jsonl(path, content, options, bad);
  return read_delimited(path, content, csv ? DelimitedReader::Format::csv : DelimitedReader::Format::tsv,
                        options, bad);
}

void warn_of_empty(const std::string& path, const std::vector<Row>& rows, BadInputs& bad) {
  const auto empty = std::ranges::count_if(
      rows, [](const Row& row) { return row.text.find_first_not_of(" \t\r\n") == std::string::npos; });
  if (empty > 0)
    bad.warn(
        fmt::format("{}: {} of {} texts are empty, and nothing can be learned from them but their label's "
                    "frequency; leave these rows out if this is not intended",
                    path, empty, rows.size()));
}

// The integer if `label` is in canonical form: no plus sign, no leading zeros.
std::optional<std::int64_t> as_integer(const std::string& label) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(label.data(), label.data() + label.size(), value);
  if (error != std::errc() || end != label.data() + label.size() || std::to_string(value) != label) return {};
  return value;
}

// Warns about labels that look the same to a person who reads the file.
void warn_of_blanks(const std::string& path, const std::vector<std::string>& names, BadInputs& bad) {
  std::map<std::string_view, std::string_view> trimmed_names;
  std::vector<std::string> alike;
  for (const std::string& name : names) {
    const auto [first, added] = trimmed_names.emplace(trimmed(name, " \t\r\n"), name);
    if (!added) alike.push_back(fmt::format("`{}` and `{}`", first->second, name));
  }
  if (!alike.empty())
    bad.warn(
        fmt::format("{}: labels that differ only in surrounding blanks are separate classes; if this is not "
                    "intended, remove the blanks: {}",
                    path, some_of(alike)));
}

std::vector<std::string> sorted_labels(const std::string& path, const std::vector<Row>& rows,
                                       const BadInputs& bad) {
  std::vector<std::string> names;
  for (const Row& row : rows) names.push_back(row.label);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  require(!names.empty(), "{}: no rows to train on{}", path, bad.all_left_out());
  require(names.size() <= kMostClasses,
          "{}: {} different labels, above the limit of {}; is label_column right?", path, names.size(),
          kMostClasses);
  if (std::all_of(names.begin(), names.end(), [](const auto& name) { return as_integer(name).has_value(); }))
    std::sort(names.begin(), names.end(),
              [](const auto& a, const auto& b) { return *as_integer(a) < *as_integer(b); });
  return names;
}

}  // namespace

TextDataset read_text_table(const TextTableOptions& options, BadInputs& bad) {
  const bool one = !options.path.empty();
  require(one ? options.train.empty() && options.validation.empty() && options.test.empty()
              : !options.train.empty(),
          "read_text_table: give either `path` (one file, split 90 / 5 / 5) or `train` (and `validation`, "
          "`test`)");
  require(options.text_column != options.label_column,
          "read_text_table: text_column and label_column are both `{}`", options.text_column);
  const std::string& train = one ? options.path : options.train;
  std::vector<Row> rows = read_rows(train, options, bad);
  TextDataset data;
  data.class_names = sorted_labels(train, rows, bad);
  warn_of_blanks(train, data.class_names, bad);
  warn_of_empty(train, rows, bad);
  std::map<std::string_view, std::int32_t> labels;
  for (const std::string& name : data.class_names)
    labels.emplace(name, static_cast<std::int32_t>(labels.size()));

  std::map<std::string, std::int32_t> clients;
  const auto append = [&](const std::string& path, Row& row, std::vector<TextExample>& split) {
    const auto found = labels.find(row.label);
    require(found != labels.end(), "{}:{}: label `{}` does not occur in {}; a class needs training examples",
            path, row.line, row.label, train);
    split.push_back({std::move(row.text), found->second, row.in_domain});
    if (!row.client.empty())
      split.back().client =
          clients.emplace(row.client, static_cast<std::int32_t>(clients.size())).first->second;
  };
  // All rows of a client go to the same split.
  const bool by_client = !options.client_column.empty();
  for (Row& row : rows) {
    const std::string& by = by_client ? row.client : row.text;
    const auto bucket = one ? XXH3_64bits(by.data(), by.size()) % 20 : 0;
    append(train, row, bucket < 18 ? data.train : bucket == 18 ? data.validation : data.test);
  }
  require(
      !data.train.empty(),
      "{}: too few different {} to split (rows with equal ones stay in one split); name the files `train`, "
      "`validation` and `test`",
      train, by_client ? "clients" : "texts");
  if (const auto untrained = untrained_classes(data.class_names, data.train); !untrained.empty())
    bad.warn(fmt::format(
        "{}: {} of {} classes have no training example, because a hash of its {} assigns each row to a "
        "split; to choose the splits yourself, name the files `train`, `validation` and `test`: {}",
        train, untrained.size(), data.class_names.size(), by_client ? "client" : "text", some_of(untrained)));
  for (const auto& [path, split] :
       {std::pair(&options.validation, &data.validation), std::pair(&options.test, &data.test)})
    for (Row& row : read_rows(*path, options, bad)) bad.attempt([&] { append(*path, row, *split); });
  return data;
}

}  // namespace conclave

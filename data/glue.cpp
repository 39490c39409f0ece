#include "data/glue.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/file.h"
#include "data/delimited.h"
#include "data/stable_bucket.h"

namespace conclave {
namespace {

const std::vector<GlueTask>& all_tasks() {
  using Names = std::vector<std::string_view>;
  static const Names truth{"0", "1"}, entailment{"entailment", "not_entailment"},
      three{"entailment", "neutral", "contradiction"};
  static const std::vector<GlueTask> tasks{
      {"cola", "CoLA", "dev.tsv", "sentence", "", "label", truth, {"unacceptable", "acceptable"}},
      {"sst2", "SST-2", "dev.tsv", "sentence", "", "label", truth, {"negative", "positive"}},
      {"mrpc",
       "MRPC",
       "dev.tsv",
       "#1 String",
       "#2 String",
       "Quality",
       truth,
       {"not_equivalent", "equivalent"}},
      {"stsb", "STS-B", "dev.tsv", "sentence1", "sentence2", "score", {}, {"0", "1", "2", "3", "4", "5"}},
      {"qqp",
       "QQP",
       "dev.tsv",
       "question1",
       "question2",
       "is_duplicate",
       truth,
       {"not_duplicate", "duplicate"}},
      {"mnli", "MNLI", "dev_matched.tsv", "sentence1", "sentence2", "gold_label", three, three},
      {"mnli_mismatched", "MNLI", "dev_mismatched.tsv", "sentence1", "sentence2", "gold_label", three, three},
      {"qnli", "QNLI", "dev.tsv", "question", "sentence", "label", entailment, entailment},
      {"rte", "RTE", "dev.tsv", "sentence1", "sentence2", "label", entailment, entailment},
      {"wnli", "WNLI", "dev.tsv", "sentence1", "sentence2", "label", truth, {"not_entailment", "entailment"}},
  };
  return tasks;
}

// CoLA's files have no header; the columns are source, label, the original author's mark, sentence.
const std::vector<std::string> kColaColumns{"source", "label", "mark", "sentence"};

// Column names of a file and the indices of the columns that a task uses.
struct Columns {
  std::vector<std::string> names;
  std::size_t first = 0, second = 0, label = 0;
};

Columns find_columns(std::vector<std::string> names, const std::string& path, const GlueTask& task) {
  const auto place = [&](std::string_view name) {
    const auto found = std::ranges::find(names, name);
    require(found != names.end(), "{}:1: no column `{}`, which GLUE's {} has; the columns are: {}", path,
            name, task.folder, fmt::join(names, ", "));
    return static_cast<std::size_t>(found - names.begin());
  };
  const std::size_t first = place(task.first), label = place(task.label);
  const std::size_t second = task.has_pairs() ? place(task.second) : 0;
  return {std::move(names), first, second, label};
}

void set_label(std::string_view text, const std::string& place, const GlueTask& task, TextExample& example) {
  if (task.has_scores()) {
    double score = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), score);
    require(
        error == std::errc() && end == text.data() + text.size() && score >= 0 && score <= kHighestGlueScore,
        "{}: {} is `{}`; it is a number from 0 to {}", place, task.label, text, kHighestGlueScore);
    example.score = score;
    example.label = static_cast<std::int32_t>(std::lround(score));
    return;
  }
  const auto found = std::ranges::find(task.labels, text);
  require(found != task.labels.end(), "{}: {} is `{}`; it is one of: {}", place, task.label, text,
          fmt::join(task.labels, ", "));
  example.label = static_cast<std::int32_t>(found - task.labels.begin());
}

std::vector<TextExample> read_file_of(const std::string& directory, std::string_view name,
                                      const GlueTask& task, BadInputs& bad) {
  const std::string path = directory + "/" + std::string(name);
  const std::string content = read_file(
      path, fmt::format("data.path is the folder of GLUE's files, or of its folders ({})", task.folder));
  return parse_glue(content, path, task, bad);
}

}  // namespace

std::span<const GlueTask> glue_tasks() { return all_tasks(); }

const GlueTask& glue_task(std::string_view name) {
  const auto found = std::ranges::find(all_tasks(), name, &GlueTask::name);
  if (found != all_tasks().end()) return *found;
  std::vector<std::string_view> names;
  for (const GlueTask& task : all_tasks()) names.push_back(task.name);
  fail("GLUE has no task `{}`; there are: {}", name, fmt::join(names, ", "));
}

std::vector<TextExample> parse_glue(std::string_view content, const std::string& path, const GlueTask& task,
                                    BadInputs& bad) {
  if (content.starts_with("\xEF\xBB\xBF")) content.remove_prefix(3);  // byte order mark, as in MRPC's files
  DelimitedReader reader(content, path, DelimitedReader::Format::tsv);
  std::vector<std::string> fields = kColaColumns;
  if (task.has_header())
    require(reader.next(fields), "{}:1: the file is empty; its first line names the columns", path);
  const Columns columns = find_columns(fields, path, task);
  std::vector<TextExample> examples;
  while (reader.next(fields))
    bad.attempt([&] {
      const std::string place = fmt::format("{}:{}", path, reader.line());
      require(fields.size() == columns.names.size(), "{}: {} columns, expected {}: {}{}", place,
              fields.size(), columns.names.size(), fmt::join(columns.names, ", "),
              task.name == "qqp"
                  ? "; some of QQP's published rows are malformed; data.skip_bad = true skips them"
                  : "");
      TextExample example;
      set_label(fields[columns.label], place, task, example);
      const auto text = [&](std::size_t column) {
        require(find_invalid_utf8(fields[column]) == std::string_view::npos, "{}: {} is not UTF-8", place,
                columns.names[column]);
        return std::move(fields[column]);
      };
      example.text = text(columns.first);
      if (task.has_pairs()) example.pair = text(columns.second);
      examples.push_back(std::move(example));
    });
  require(!examples.empty(), "{}: no rows of GLUE's {}", path, task.folder);
  return examples;
}

TextDataset read_glue(const std::string& directory, std::string_view name, BadInputs& bad) {
  const GlueTask& task = glue_task(name);
  std::error_code ignored;  // read_file reports errors with more detail
  const bool of_all = !std::filesystem::exists(directory + "/train.tsv", ignored);
  const std::string folder = of_all ? directory + "/" + std::string(task.folder) : directory;
  TextDataset data;
  data.class_names.assign(task.class_names.begin(), task.class_names.end());
  for (TextExample& example : read_file_of(folder, "train.tsv", task, bad))
    (bucket_of(example.text, 20) == 0 ? data.validation : data.train).push_back(std::move(example));
  data.test = read_file_of(folder, task.dev, task, bad);
  require(!data.train.empty(), "{}/train.tsv: too few rows; all of them are for validation", folder);
  return data;
}

}  // namespace conclave

#include "recipes/service/outputs.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <span>

#include "core/json_text.h"
#include "core/text.h"
#include "recipes/inference/image_grid.h"
#include "recipes/inference/likeliest.h"
#include "recipes/service/base64.h"

namespace conclave::service {
namespace {

using Json = nlohmann::ordered_json;

std::string csv_field(std::string_view text) {
  std::string field = "\"";
  for (const char c : text) field.append(c == '"' ? 2 : 1, c);
  return field + "\"";
}

// The weight that an Accept header gives to `type`: that of the most specific matching range (RFC 9110,
// section 12.5.1).
double liking(std::string_view accept, std::string_view type) {
  if (trimmed(accept).empty()) return 1;
  double weight = 0;
  std::size_t closest = 0;
  while (!accept.empty()) {
    const std::string_view item = take_item(accept);
    const std::string_view range = trimmed(item.substr(0, item.find(';')));
    const bool all = range == "*/*", of_kind = !all && range.ends_with("/*");
    const std::size_t compared = of_kind ? range.size() - 1 : std::max(range.size(), type.size());
    if (!all && !same_but_for_case(range.substr(0, compared), type.substr(0, compared))) continue;
    const std::size_t closeness = all ? 1 : of_kind ? 2 : 3;
    if (closeness < closest) continue;
    closest = closeness;
    weight = 1;
    if (const std::size_t q = std::min(item.find("q="), item.find("Q=")); q != std::string_view::npos)
      std::from_chars(item.data() + q + 2, item.data() + item.size(), weight);
  }
  return weight;
}

}  // namespace

std::string facts_text(const ModelFacts& model) {
  Json tasks = Json::array();
  for (std::size_t task = 0; task < kTaskNames.size(); ++task)
    if (model.tasks[task]) tasks.push_back(kTaskNames[task]);
  Json facts{{"model", model.name}, {"tasks", tasks}, {"classes", model.class_names}};
  facts["classifies"] = Json::array();
  if (model.texts) facts["classifies"].push_back("text");
  if (model.images) facts["classifies"].push_back("image");
  facts["most_tokens"] = model.max_length;
  return json_text(facts) + "\n";
}

std::string error_text(std::string_view code, std::string_view message) {
  return json_text(Json{{"error", {{"code", code}, {"message", message}}}}) + "\n";
}

std::string JsonWriter::write(const ModelFacts& model, const Query& query, const Answer& answer) const {
  Json json{{"task", name_of(query.task)}, {"model", model.name}};
  if (!query.tokens.empty()) json["tokens"] = query.tokens.size();
  if (query.truncated) json["truncated"] = true;
  switch (query.task) {
    case TaskKind::classify:
      add_classes(json, answer.probabilities, model.class_names, query.top);
      break;
    case TaskKind::caption:
      json["caption"] = answer.caption;
      json["log_probability"] = answer.log_probability;
      break;
    case TaskKind::generate:
      json["seed"] = query.sampling.seed;
      for (const Image& image : answer.images) json["images"].push_back(to_base64(encode_png(image)));
      break;
    case TaskKind::embed:
      json["embedding"] = answer.embedding;
      break;
  }
  for (std::size_t l = 0; l < model.layer_names.size() && !answer.experts.empty(); ++l) {
    const auto experts = static_cast<std::size_t>(model.experts);
    const auto rows = std::span(answer.experts).subspan(l * experts, experts);
    json["experts"].push_back(
        {{"layer", model.layer_names[l]}, {"rows", std::vector(rows.begin(), rows.end())}});
  }
  return json_text(json) + "\n";
}

std::string CsvWriter::write(const ModelFacts& model, const Query& query, const Answer& answer) const {
  std::string text;
  switch (query.task) {
    case TaskKind::classify:
      text = "class,probability\r\n";
      for (const std::size_t c : likeliest(answer.probabilities, query.top))
        text += fmt::format("{},{}\r\n", csv_field(model.class_names.at(c)), answer.probabilities[c]);
      break;
    case TaskKind::caption:
      text = fmt::format("caption,log_probability\r\n{},{}\r\n", csv_field(answer.caption),
                         answer.log_probability);
      break;
    case TaskKind::embed:
      text = fmt::format("{}\r\n", fmt::join(answer.embedding, ","));
      break;
    case TaskKind::generate:  // not written, see writes()
      break;
  }
  return text;
}

std::string PngWriter::write(const ModelFacts& /*model*/, const Query& /*query*/,
                             const Answer& answer) const {
  return encode_png(answer.images.size() == 1 ? answer.images.front() : square_grid(answer.images));
}

Outputs::Outputs() {
  add(std::make_unique<JsonWriter>());
  add(std::make_unique<CsvWriter>());
  add(std::make_unique<PngWriter>());
}

const AnswerWriter& Outputs::choose(TaskKind task, std::string_view format, std::string_view accept) const {
  const AnswerWriter* best = nullptr;
  double most = 0;
  std::vector<std::string_view> names;
  for (const auto& writer : writers_) {
    if (!writer->writes(task)) continue;
    names.push_back(writer->name());
    const double liked = format.empty() ? liking(accept, writer->type()) : writer->name() == format ? 1 : 0;
    if (liked > most) best = writer.get(), most = liked;
  }
  if (best) return *best;
  throw Refusal(
      format.empty() ? 406 : 400, "unknown_format",
      fmt::format("{} has no answers in this format; there are {}", name_of(task), fmt::join(names, ", ")));
}

}  // namespace conclave::service

#include "federated/privacy/privacy_marks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

namespace conclave {
namespace {

struct KindOfMark {
  MarkKind kind;
  const char* name;
  const char* unit;   // unless the mark has one
  const char* count;  // what it spends in
};
constexpr std::array kMarks{KindOfMark{MarkKind::training, "privacy", "example", "steps"},
                            KindOfMark{MarkKind::clients, "client_privacy", "client", "rounds"},
                            KindOfMark{MarkKind::rounds, "round_privacy", "site", "rounds"}};

const KindOfMark& traits_of(MarkKind kind) { return *std::ranges::find(kMarks, kind, &KindOfMark::kind); }

PrivacyMark read_mark(const nlohmann::json& json, const KindOfMark& kind) {
  const auto number = [&](const char* key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_number() ? std::optional(found->get<double>()) : std::nullopt;
  };
  PrivacyMark mark{.unit = json.value("unit", ""),
                   .epsilon = number("epsilon"),
                   .delta = number("delta"),
                   .noise_multiplier = number("noise_multiplier"),
                   .sampling_rate = number("sampling_rate"),
                   .name = json.value("name", ""),
                   .scope = json.value("scope", "")};
  if (number(kind.count)) mark.count = json.at(kind.count).get<std::int64_t>();
  if (json.contains("epsilon") && !mark.epsilon) mark.epsilon = std::numeric_limits<double>::infinity();
  return mark;
}

bool has_spent(const PrivacyMark& mark) { return mark.epsilon && mark.count.value_or(1) > 0; }

std::string describe(const PrivacyMark& mark, const KindOfMark& kind) {
  std::string line = fmt::format(
      "privacy of each {}: {}epsilon {}", mark.unit.empty() ? kind.unit : mark.unit,
      mark.count ? fmt::format("{} {}, ", *mark.count, kind.count) : "",
      mark.epsilon && std::isfinite(*mark.epsilon) ? fmt::format("{:.4f}", *mark.epsilon) : "infinite");
  if (mark.delta) line += fmt::format(" at delta {}", *mark.delta);
  if (mark.noise_multiplier) line += fmt::format(", noise multiplier {:.4g}", *mark.noise_multiplier);
  if (!mark.scope.empty()) line += fmt::format(" ({})", mark.scope);
  return line;
}

}  // namespace

std::optional<PrivacyMark> find_mark(const nlohmann::json& metadata, MarkKind kind) {
  const KindOfMark& traits = traits_of(kind);
  const auto found = metadata.find(traits.name);
  return found != metadata.end() ? std::optional(read_mark(*found, traits)) : std::nullopt;
}

void set_mark(nlohmann::json& metadata, MarkKind kind, const PrivacyMark& mark) {
  const KindOfMark& traits = traits_of(kind);
  auto json = nlohmann::json::object();
  const auto set = [&](const char* key, const auto& value) {
    if (value) json[key] = *value;
  };
  if (!mark.unit.empty()) json["unit"] = mark.unit;
  set(traits.count, mark.count);
  if (mark.epsilon) json["epsilon"] = std::isfinite(*mark.epsilon) ? nlohmann::json(*mark.epsilon) : nullptr;
  set("delta", mark.delta);
  set("noise_multiplier", mark.noise_multiplier);
  set("sampling_rate", mark.sampling_rate);
  if (!mark.name.empty()) json["name"] = mark.name;
  if (!mark.scope.empty()) json["scope"] = mark.scope;
  metadata[traits.name] = std::move(json);
}

bool is_private(const nlohmann::json& metadata) {
  return std::ranges::any_of(kMarks, [&](const KindOfMark& kind) { return metadata.contains(kind.name); });
}

nlohmann::json privacy_before(const nlohmann::json& metadata) {
  nlohmann::json before = metadata.value("privacy_before", nlohmann::json::array());
  for (const KindOfMark& kind : kMarks) {
    if (const auto mark = find_mark(metadata, kind.kind); !mark || !has_spent(*mark)) continue;
    before.push_back(metadata.at(kind.name));
    before.back()["of"] = kind.name;
  }
  return before;
}

nlohmann::json begun_from(nlohmann::json metadata) {
  nlohmann::json before = privacy_before(metadata);
  for (const KindOfMark& kind : kMarks) metadata.erase(kind.name);
  if (!before.empty()) metadata["privacy_before"] = std::move(before);
  return metadata;
}

std::vector<std::string> describe_privacy(const nlohmann::json& metadata) {
  std::vector<std::string> lines;
  for (const KindOfMark& kind : kMarks)
    if (const auto mark = find_mark(metadata, kind.kind); mark && has_spent(*mark))
      lines.push_back(describe(*mark, kind));
  for (const nlohmann::json& mark : metadata.value("privacy_before", nlohmann::json::array()))
    for (const KindOfMark& kind : kMarks)
      if (mark.value("of", "") == kind.name)
        lines.push_back("the model that it started from: " + describe(read_mark(mark, kind), kind));
  return lines;
}

}  // namespace conclave

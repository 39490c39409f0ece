#include "federated/privacy/privacy_marks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

namespace conclave {
namespace {

struct Mark {
  const char* name;
  const char* unit;   // unless the mark has one
  const char* count;  // what it spends in
};
constexpr std::array kMarks{Mark{"privacy", "example", "steps"}, Mark{"client_privacy", "client", "rounds"},
                            Mark{"round_privacy", "site", "rounds"}};

bool has_spent(const nlohmann::json& mark, const Mark& kind) {
  return mark.contains("epsilon") && mark.value(kind.count, 1) > 0;
}

std::string describe(const nlohmann::json& mark, const Mark& kind) {
  const nlohmann::json epsilon = mark.value("epsilon", nlohmann::json()),
                       delta = mark.value("delta", nlohmann::json()),
                       noise = mark.value("noise_multiplier", nlohmann::json());
  std::string line =
      fmt::format("privacy of each {}: {} {}, epsilon {}", mark.value("unit", kind.unit),
                  mark.value(kind.count, nlohmann::json()).dump(), kind.count,
                  epsilon.is_number() ? fmt::format("{:.4f}", epsilon.get<double>()) : "infinite");
  if (delta.is_number()) line += fmt::format(" at delta {}", delta.dump());
  if (noise.is_number()) line += fmt::format(", noise multiplier {:.4g}", noise.get<double>());
  if (mark.contains("scope")) line += fmt::format(" ({})", mark.at("scope").get<std::string>());
  return line;
}

}  // namespace

bool is_private(const nlohmann::json& metadata) {
  return std::ranges::any_of(kMarks, [&](const Mark& kind) { return metadata.contains(kind.name); });
}

nlohmann::json privacy_before(const nlohmann::json& metadata) {
  nlohmann::json before = metadata.value("privacy_before", nlohmann::json::array());
  for (const Mark& kind : kMarks) {
    if (!metadata.contains(kind.name) || !has_spent(metadata.at(kind.name), kind)) continue;
    before.push_back(metadata.at(kind.name));
    before.back()["of"] = kind.name;
  }
  return before;
}

nlohmann::json begun_from(nlohmann::json metadata) {
  nlohmann::json before = privacy_before(metadata);
  for (const Mark& kind : kMarks) metadata.erase(kind.name);
  if (!before.empty()) metadata["privacy_before"] = std::move(before);
  return metadata;
}

std::vector<std::string> describe_privacy(const nlohmann::json& metadata) {
  std::vector<std::string> lines;
  for (const Mark& kind : kMarks)
    if (metadata.contains(kind.name) && has_spent(metadata.at(kind.name), kind))
      lines.push_back(describe(metadata.at(kind.name), kind));
  for (const nlohmann::json& mark : metadata.value("privacy_before", nlohmann::json::array()))
    for (const Mark& kind : kMarks)
      if (mark.value("of", "") == kind.name)
        lines.push_back("the model that it started from: " + describe(mark, kind));
  return lines;
}

}  // namespace conclave

#include "federated/prometheus_file.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/durable_file.h"

namespace conclave {

std::string prometheus_label(const std::string& name, const std::string& value) {
  std::string escaped;
  for (const char c : value) {
    if (c == '\\' || c == '"') escaped += '\\';
    escaped += c == '\n' ? "\\n" : std::string(1, c);
  }
  return fmt::format("{}=\"{}\"", name, escaped);
}

std::string prometheus_text(const std::vector<Gauge>& gauges) {
  std::string text;
  for (const auto& [name, help, values] : gauges) {
    text += fmt::format("# HELP {0} {1}\n# TYPE {0} gauge\n", name, help);
    for (const auto& [labels, value] : values)
      text += fmt::format("{}{} {}\n", name, labels.empty() ? "" : "{" + labels + "}", value);
  }
  return text;
}

void write_prometheus_file(const std::string& path, const std::vector<Gauge>& gauges) {
  AtomicFile file(path);
  file.write(prometheus_text(gauges));
  std::error_code ignored;  // on file systems without permissions. The collector may be another user.
  std::filesystem::permissions(file.temporary(), std::filesystem::perms(0644), ignored);
  file.commit();
}

}  // namespace conclave

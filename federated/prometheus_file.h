// Metrics in Prometheus's text format (exposition format 0.0.4), in a file that is replaced as a whole.
// node_exporter's textfile collector, or any other that reads files, collects them, so the coordinator needs
// no further port.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace conclave {

struct Gauge {
  std::string name, help;
  /// By labels, for example `site="north"`; the key is "" for a value without labels.
  std::map<std::string, double> values;
};

/// A label with its value, escaped.
std::string prometheus_label(const std::string& name, const std::string& value);
std::string prometheus_text(const std::vector<Gauge>& gauges);
/// Throws Error if the file cannot be written.
void write_prometheus_file(const std::string& path, const std::vector<Gauge>& gauges);

}  // namespace conclave

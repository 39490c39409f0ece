// Figures in Prometheus's text format (exposition format 0.0.4), as a file that is always whole: for
// node_exporter's textfile collector, or any other that reads files, so that a coordinator opens no further
// port.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace conclave {

struct Gauge {
  std::string name, help;
  /// By labels, `site="north"`; one without has the key "".
  std::map<std::string, double> values;
};

/// A label with its value, escaped.
std::string prometheus_label(const std::string& name, const std::string& value);
std::string prometheus_text(const std::vector<Gauge>& gauges);
/// Throws Error where it cannot be written.
void write_prometheus_file(const std::string& path, const std::vector<Gauge>& gauges);

}  // namespace conclave

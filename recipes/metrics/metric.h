// One named result of a training step: a number, or an array such as the load of each expert. The name and
// the array belong to the caller and must only live during the call to which the Metric is passed.
#pragma once

#include <span>
#include <string_view>

namespace conclave {

struct Metric {
  Metric(std::string_view metric_name, double value) : name(metric_name), scalar(value) {}
  Metric(std::string_view metric_name, std::span<const double> values)
      : name(metric_name), array(values), is_array(true) {}

  std::string_view name;
  double scalar = 0.0;
  std::span<const double> array;
  bool is_array = false;
};

}  // namespace conclave

#include "federated/prometheus_file.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>

#include "tests/data/temporary_directory.h"

using namespace conclave;

TEST_CASE("prometheus file: gauges are written in the text format") {
  const std::vector<Gauge> gauges{
      {"conclave_round", "Rounds that are over", {{"", 3}}},
      {"conclave_examples",
       "Examples of the last round",
       {{prometheus_label("site", "north"), 277.5}, {prometheus_label("site", "a\"b\\c\nd"), 1}}}};
  const std::string expected =
      "# HELP conclave_round Rounds that are over\n"
      "# TYPE conclave_round gauge\n"
      "conclave_round 3\n"
      "# HELP conclave_examples Examples of the last round\n"
      "# TYPE conclave_examples gauge\n"
      "conclave_examples{site=\"a\\\"b\\\\c\\nd\"} 1\n"
      "conclave_examples{site=\"north\"} 277.5\n";
  CHECK(prometheus_text(gauges) == expected);
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/metrics.prom";
  write_prometheus_file(path, gauges);
  write_prometheus_file(path, gauges);  // replaces the first file
  std::stringstream written;
  written << std::ifstream(path).rdbuf();
  CHECK(written.str() == expected);
}

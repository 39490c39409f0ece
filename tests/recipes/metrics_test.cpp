// The contents of metrics.jsonl and of the event file, also after a crash, a resume or a full disk.
// tensorboard_check.py reads the same files with TensorBoard itself.
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "recipes/metrics/crc32c.h"
#include "recipes/metrics/metrics_writer.h"
#include "tests/data/full_disk.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
namespace fs = std::filesystem;

namespace {

const std::string kEvents = "/events.out.tfevents.1500000000.host";  // of the options below

void add_bytes(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary | std::ios::app) << bytes;
}

std::vector<nlohmann::json> lines_of(const std::string& folder) {
  std::istringstream text(bytes_of(folder + "/metrics.jsonl"));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

std::vector<std::int64_t> steps_of(const std::string& folder) {
  std::vector<std::int64_t> steps;
  for (const auto& line : lines_of(folder)) steps.push_back(line["step"]);
  return steps;
}

/// The data of all records of a TFRecord file; checks both CRCs of each record.
std::vector<std::string> records_of(const std::string& path) {
  const std::string bytes = bytes_of(path);
  std::vector<std::string> records;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    std::uint32_t length_crc = 0, data_crc = 0;
    REQUIRE(at + 16 <= bytes.size());
    std::memcpy(&length, &bytes[at], 8);
    std::memcpy(&length_crc, &bytes[at + 8], 4);
    REQUIRE(at + 16 + length <= bytes.size());
    REQUIRE(masked_crc32c(std::string_view(bytes).substr(at, 8)) == length_crc);
    records.push_back(bytes.substr(at + 12, length));
    std::memcpy(&data_crc, &bytes[at + 12 + length], 4);
    REQUIRE(masked_crc32c(records.back()) == data_crc);
    at += 16 + length;
  }
  return records;
}

MetricsOptions options(const std::string& folder, std::vector<std::string>* warnings = nullptr) {
  return {.directory = folder,
          .host = "host",
          .clock = [] { return 1.5e9; },
          .warn =
              [=](const std::string& text) {
                if (warnings) warnings->push_back(text);
              }};
}

void write_steps(MetricsWriter& writer, std::int64_t from, std::int64_t to) {
  for (std::int64_t step = from; step < to; ++step)
    writer.write(step, std::array{Metric("loss", 1.0 / static_cast<double>(step + 1))});
}

}  // namespace

TEST_CASE("crc32c has the value that RFC 3720 gives", "[metrics]") {
  CHECK(crc32c("123456789") == 0xE3069283u);
  CHECK(crc32c("") == 0u);
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAu);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62A8AB43u);
}

TEST_CASE("a step is one JSON line with exact numbers", "[metrics]") {
  const TemporaryDirectory folder;
  MetricsWriter writer(options(folder.path()));
  const std::vector<double> load = {0.8, 1.1, std::nan("")};
  const double third = 1.0 / 3.0;
  writer.write(7, std::array{Metric("loss", third), Metric("moe/load", load),
                             Metric("infinite", std::numeric_limits<double>::infinity()),
                             Metric("none", std::span<const double>{}), Metric("a \"name\"\n", 1e300)});
  const auto line = lines_of(folder.path()).at(0);
  CHECK(line["step"] == 7);
  CHECK(line["time"] == 1.5e9);
  CHECK(line["loss"].get<double>() == third);
  CHECK(line["moe/load"].dump() == "[0.8,1.1,null]");
  CHECK(line["infinite"].is_null());
  CHECK(line["none"].empty());
  CHECK(line["a \"name\"\n"] == 1e300);
}

TEST_CASE("the event file has TFRecords of protobuf events, byte for byte", "[metrics]") {
  const TemporaryDirectory folder;
  MetricsWriter writer(options(folder.path()));
  const std::vector<double> load = {2.0};
  writer.write(300, std::array{Metric("loss", 1.0), Metric("l", load)});
  const auto records = records_of(folder.path() + kEvents);
  REQUIRE(records.size() == 2);
  using namespace std::string_literals;
  const std::string time = "\x09\x00\x00\x00\xC0\x0B\x5A\xD6\x41"s;  // field 1: the double 1.5e9
  CHECK(records[0] == time + "\x10\x00\x1A\x0D"s + "brain.Event:2");
  CHECK(records[1] == time + "\x10\xAC\x02\x2A\x19"s  // step 300, summary of 25 bytes
                          + "\x0A\x0B\x0A\x04"s + "loss\x15\x00\x00\x80\x3F"s   // 1.0f
                          + "\x0A\x0A\x0A\x03"s + "l/0\x15\x00\x00\x00\x40"s);  // 2.0f
}

TEST_CASE("a resumed run drops metrics of later steps and appends", "[metrics]") {
  const TemporaryDirectory folder;
  {
    MetricsWriter writer(options(folder.path()));
    write_steps(writer, 0, 10);
  }
  MetricsWriter writer(options(folder.path()));
  CHECK(steps_of(folder.path()).size() == 10);  // opening the files drops nothing
  writer.truncate_from(6);
  CHECK(steps_of(folder.path()) == std::vector<std::int64_t>{0, 1, 2, 3, 4, 5});
  write_steps(writer, 6, 8);
  CHECK(steps_of(folder.path()) == std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7});
  using namespace std::string_literals;
  // SessionLog { status: START } at step 6: TensorBoard forgets steps 6 to 9 of the earlier file.
  CHECK(records_of(folder.path() + kEvents + ".1").at(1).substr(9) == "\x10\x06\x3A\x02\x08\x01"s);
}

TEST_CASE("an evaluation that is repeated takes the place of the earlier one", "[metrics]") {
  const TemporaryDirectory folder;
  MetricsWriter writer(options(folder.path()));
  const auto write = [&](std::int64_t step, const char* name) {
    writer.write(step, std::array{Metric(name, 1.0)});
  };
  writer.drop_evaluation(1, "test");  // of nothing
  write(1, "test/loss");
  write(2, "train/loss");
  write(2, "validation/loss");
  const std::string before = bytes_of(writer.jsonl_path());
  write(2, "test/loss");
  write(2, "caption/test/loss");
  writer.drop_evaluation(1, "test");  // which is not at the end
  CHECK(steps_of(folder.path()) == std::vector<std::int64_t>{1, 2, 2, 2, 2});
  writer.drop_evaluation(2, "test");
  CHECK(bytes_of(writer.jsonl_path()) == before);
  write(2, "test/loss");
  CHECK(steps_of(folder.path()) == std::vector<std::int64_t>{1, 2, 2, 2});
}

TEST_CASE("a new run in an old folder starts with empty metrics", "[metrics]") {
  const TemporaryDirectory folder;
  {
    MetricsWriter writer(options(folder.path()));
    write_steps(writer, 0, 3);
  }
  MetricsWriter writer(options(folder.path()));
  writer.truncate_from(0);
  CHECK(bytes_of(writer.jsonl_path()).empty());
}

TEST_CASE("the metrics of an earlier run are moved completely, and no other files", "[metrics]") {
  const TemporaryDirectory folder, other;
  {
    MetricsWriter writer(options(folder.path()));
    write_steps(writer, 0, 3);
  }
  add_bytes(folder.path() + "/metrics.jsonl.txt", "mine");
  move_metrics(folder.path(), other.path());
  CHECK(steps_of(other.path()) == std::vector<std::int64_t>{0, 1, 2});
  CHECK(records_of(other.path() + "/events.out.tfevents.1500000000.host").size() == 4);
  CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("an incomplete last line is removed before more lines are written", "[metrics]") {
  const TemporaryDirectory folder;
  {
    MetricsWriter writer(options(folder.path()));
    write_steps(writer, 0, 3);
  }
  for (const std::string_view torn :
       {"{\"step\":3,\"time\":15", "{\"step\":3}", "{", "\0\0\0\n\0\0", "{\"step\":\n"}) {
    add_bytes(folder.path() + "/metrics.jsonl", torn);
    MetricsWriter writer(options(folder.path()));
    CHECK(steps_of(folder.path()) == std::vector<std::int64_t>{0, 1, 2});
  }
}

TEST_CASE("a full disk loses lines, gives one warning and leaves complete lines", "[metrics]") {
  const TemporaryDirectory folder;
  std::vector<std::string> warnings;
  MetricsWriter writer(options(folder.path(), &warnings));
  write_steps(writer, 0, 5);

  {
    const FileSizeLimit full(fs::file_size(writer.jsonl_path()) + 10);
    write_steps(writer, 5, 8);
  }
  write_steps(writer, 8, 10);
  CHECK(steps_of(folder.path()) == std::vector<std::int64_t>{0, 1, 2, 3, 4, 8, 9});
  CHECK(records_of(folder.path() + kEvents).size() <= 11);  // records_of checks that each is complete
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Catch::Matchers::Contains("metrics cannot be written"));
}

TEST_CASE("a full device gives a warning, too", "[metrics]") {
  const TemporaryDirectory folder;
  fs::create_symlink("/dev/full", folder.path() + "/metrics.jsonl");
  std::vector<std::string> warnings;
  MetricsWriter writer(options(folder.path(), &warnings));
  writer.truncate_from(0);
  write_steps(writer, 0, 3);
  CHECK(warnings ==
        std::vector{folder.path() + "/metrics.jsonl: metrics cannot be written (No space left on device); "
                                    "training goes on without them"});
  CHECK(records_of(folder.path() + kEvents).size() == 5);
}

TEST_CASE("a folder that cannot be created is an immediate error", "[metrics]") {
  const TemporaryDirectory folder;
  add_bytes(folder.path() + "/file", "x");
  CHECK_THROWS_AS(MetricsWriter(options(folder.path() + "/file/run")), Error);
  CHECK_NOTHROW(MetricsWriter(options(folder.path() + "/new/run")));
}

// Lines of a log, and progress bars on terminals of many widths.
#include "recipes/training/progress.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

using namespace conclave;
using Catch::Matchers::Contains;

namespace {

const std::vector<double> kLoad = {0.8, 1.2, 1.0};
const std::array<MoeLayerReport, 2> kLayers = {MoeLayerReport{kLoad, 0.83, 4.06}, {kLoad, 0.93, 5.0}};

const std::array<TaskReport, 1> kTasks = {TaskReport{"classify", true, 1.23449, 0.7118}};

StepReport report() {
  return {.step = 120,
          .total_steps = 680,
          .epoch = 1.76,
          .learning_rate = 9.8e-4,
          .tokens_per_second = 21340.4,
          .seconds_per_step = 0.343,
          .tasks = kTasks,
          .layers = kLayers};
}

std::string line(const StepReport& report) {
  fmt::memory_buffer out;
  format_line(out, report);
  return fmt::to_string(out);
}

std::string bar(const StepReport& report, int columns, bool colour = false) {
  fmt::memory_buffer out;
  format_bar(out, report, columns, colour);
  return fmt::to_string(out);
}

/// Both ends of a pipe; reading does not wait for more.
struct Pipe {
  Pipe() { REQUIRE(::pipe2(ends.data(), O_NONBLOCK) == 0); }
  ~Pipe() { ::close(ends[0]), ::close(ends[1]); }
  std::string read() const {
    std::string text(65536, '\0');
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(::read(ends[0], text.data(), text.size()), 0)));
    return text;
  }
  std::array<int, 2> ends{};
};

}  // namespace

TEST_CASE("a log line has all figures, and for each layer utilization, time and loads", "[progress]") {
  CHECK(line(report()) ==
        "step 120/680  epoch 1.76  loss 1.2345  acc 0.712  lr 9.8e-04  tokens/s 21340  utilization 0.88  "
        "moe 9.1 ms  eta 3m12s  [layer 0: utilization 0.83 moe 4.1 ms load 0.80 1.20 1.00]  "
        "[layer 1: utilization 0.93 moe 5.0 ms load 0.80 1.20 1.00]");
}

TEST_CASE("a log line has no times of layers where they are not measured", "[progress]") {
  StepReport untimed = report();
  untimed.timed = false;
  CHECK(line(untimed) ==
        "step 120/680  epoch 1.76  loss 1.2345  acc 0.712  lr 9.8e-04  tokens/s 21340  utilization 0.88  eta "
        "3m12s  [layer 0: utilization 0.83 load 0.80 1.20 1.00]  [layer 1: utilization 0.93 load 0.80 1.20 "
        "1.00]");
}

TEST_CASE("lines of several tasks have names, without tasks that took no step", "[progress]") {
  const std::array<TaskReport, 3> tasks = {kTasks[0], TaskReport{"caption", false, 7, 0.5},
                                           TaskReport{"generate", true, 0.25, {}}};
  StepReport some = report();
  some.tasks = tasks;
  CHECK_THAT(line(some), Contains("epoch 1.76  classify loss 1.2345  acc 0.712  generate loss 0.2500  lr"));
  CHECK_THAT(bar(some, 200), Contains("classify 1.234  generate 0.250"));
}

TEST_CASE("the remaining time has two units and is omitted if unknown", "[progress]") {
  StepReport some = report();
  const auto eta = [&](double seconds) {
    some.seconds_per_step = seconds / 560;
    const std::string text = line(some);
    const auto at = text.find("  eta ");
    return at == std::string::npos ? "" : text.substr(at + 6, text.find("  [") - at - 6);
  };
  CHECK(eta(59) == "59s");
  CHECK(eta(60) == "1m00s");
  CHECK(eta(3600 * 3 + 60 * 7) == "3h07m");
  CHECK(eta(86400 * 2 + 3600 * 5) == "2d05h");
  CHECK(eta(0) == "");
  CHECK(eta(std::numeric_limits<double>::infinity()) == "");
  CHECK(eta(std::numeric_limits<double>::quiet_NaN()) == "");
  some.total_steps = 0;
  CHECK(eta(60) == "");
}

TEST_CASE("a bar fits into its terminal and drops the least important figures first", "[progress]") {
  for (int columns = 1; columns < 300; ++columns) {
    INFO(columns);
    CHECK(bar(report(), columns).size() <= static_cast<std::size_t>(std::max(columns - 1, 1)));
  }
  CHECK(
      bar(report(), 200) ==
      "[=======>                                ] 120/680  epoch 1.8  loss 1.234  acc 0.712  21340 tokens/s  "
      "utilization 0.88  load 0.80-1.20  eta 3m12s");
  CHECK(bar(report(), 80) ==
        "[===>               ] 120/680  loss 1.234  acc 0.712  21340 tokens/s  eta 3m12s");
  CHECK(bar(report(), 30) == "120/680  loss 1.234");
  CHECK(bar(report(), 9) == "120/680");
}

TEST_CASE("a bar is drawn at its beginning, at its end and past it", "[progress]") {
  StepReport some = report();
  some.step = 0;
  CHECK_THAT(bar(some, 60), Contains("[>"));
  some.step = 680;
  CHECK_THAT(bar(some, 60), Contains("=] 680/680"));
  some.step = 700;
  CHECK_THAT(bar(some, 60), Contains("=] 700/680"));
  some.total_steps = 0;
  CHECK(bar(some, 30) == "700  loss 1.234  acc 0.712");
  some.layers = {};
  CHECK_THAT(bar(some, 300), !Contains("load"));
}

TEST_CASE("a bar fits into its line with figures of any size", "[progress]") {
  StepReport some = report();
  const std::array<TaskReport, 1> diverged = {TaskReport{"classify", true, 1e300, 0.7118}};
  some.tasks = diverged;
  some.tokens_per_second = std::numeric_limits<double>::quiet_NaN();
  some.step = std::numeric_limits<std::int64_t>::max();
  for (const int columns : {1, 20, 80, 400})
    CHECK(bar(some, columns).size() < static_cast<std::size_t>(columns) + 1);
}

TEST_CASE("only the bar is in colour, and only on request", "[progress]") {
  CHECK_THAT(bar(report(), 80), !Contains("\x1b"));
  const std::string coloured = bar(report(), 80, true);
  CHECK_THAT(coloured, Contains("[\x1b[32m===\x1b[0m>"));
}

TEST_CASE("a file or pipe gets plain lines", "[progress]") {
  const Pipe pipe;
  const auto options = progress_options(pipe.ends[1], nullptr, "xterm");
  CHECK_FALSE(options.bar);
  CHECK_FALSE(options.colour);
  Progress progress(options);
  progress.show(report());
  progress.message("validation: acc 0.7");
  progress.finish();
  CHECK(pipe.read() == line(report()) + "\nvalidation: acc 0.7\n");
}

TEST_CASE("a terminal gets a bar, in colour unless NO_COLOR or TERM forbid it", "[progress]") {
  const int controller = ::posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(controller >= 0);
  REQUIRE(::grantpt(controller) == 0);
  REQUIRE(::unlockpt(controller) == 0);
  const int terminal = ::open(::ptsname(controller), O_RDWR | O_NOCTTY);
  REQUIRE(terminal >= 0);
  CHECK(progress_options(terminal, nullptr, "xterm").bar);
  CHECK(progress_options(terminal, nullptr, "xterm").colour);
  CHECK(progress_options(terminal, "", "xterm").colour);
  CHECK_FALSE(progress_options(terminal, "1", "xterm").colour);
  CHECK(progress_options(terminal, "1", "xterm").bar);
  CHECK_FALSE(progress_options(terminal, nullptr, "dumb").bar);
  CHECK_FALSE(progress_options(terminal, nullptr, nullptr).bar);
  ::close(terminal);
  ::close(controller);
}

TEST_CASE("a bar replaces the previous one and makes room for messages", "[progress]") {
  const Pipe pipe;
  const std::string drawn = bar(report(), 80);
  {
    Progress progress({.descriptor = pipe.ends[1], .bar = true, .columns = 80});
    progress.message("before");
    CHECK(pipe.read() == "before\n");
    progress.show(report());
    progress.show(report());
    CHECK(pipe.read() == "\r\x1b[K" + drawn + "\r\x1b[K" + drawn);
    progress.message("validation");
    CHECK(pipe.read() == "\r\x1b[Kvalidation\n" + drawn);
  }
  CHECK(pipe.read() == "\n");
}

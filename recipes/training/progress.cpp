#include "recipes/training/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <iterator>
#include <string_view>
#include <utility>

namespace conclave {
namespace {

// ANSI: carriage return and erase to the end of the line; green; back to normal.
constexpr std::string_view kErase = "\r\x1b[K", kGreen = "\x1b[32m", kNormal = "\x1b[0m";

template <class... Args>
void append(fmt::memory_buffer& out, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(out), format, std::forward<Args>(args)...);
}

void append_text(fmt::memory_buffer& out, std::string_view text) { out.append(text); }

void append_steps(fmt::memory_buffer& out, const StepReport& report) {
  append(out, "{}", report.step);
  if (report.total_steps > 0) append(out, "/{}", report.total_steps);
}

/// "3m12s" for the steps left; false if the time left is unknown.
bool append_time_left(fmt::memory_buffer& out, const StepReport& report) {
  const double seconds =
      std::round(static_cast<double>(report.total_steps - report.step) * report.seconds_per_step);
  if (report.total_steps <= 0 || !(report.seconds_per_step > 0) || !(seconds >= 0) || !(seconds < 1e9))
    return false;
  const auto total = static_cast<std::int64_t>(seconds);
  if (total >= 86400)
    append(out, "{}d{:02}h", total / 86400, total / 3600 % 24);
  else if (total >= 3600)
    append(out, "{}h{:02}m", total / 3600, total / 60 % 60);
  else if (total >= 60)
    append(out, "{}m{:02}s", total / 60, total % 60);
  else
    append(out, "{}s", total);
  return true;
}

/// The figures beside a bar, in the order they are shown; each may be left out.
class Figures {
 public:
  /// Figures with a higher rank are left out first if the line is too short.
  template <class... Args>
  void add(int rank, fmt::format_string<Args...> format, Args&&... args) {
    Figure& figure = figures_[count_++];
    figure.rank = rank;
    const auto written =
        fmt::format_to_n(figure.text, sizeof figure.text, format, std::forward<Args>(args)...);
    figure.size = std::min(written.size, sizeof figure.text);
  }

  /// Leaves out the least important figures until the others, with two blanks before each, fit into
  /// `columns`.
  void fit(std::size_t columns) {
    while (width() > columns) {
      const auto last = std::ranges::max_element(figures_, {}, &Figure::rank);
      *last = Figure{};
    }
  }
  std::size_t width() const {
    std::size_t sum = 0;
    for (const Figure& figure : figures_) sum += figure.size ? figure.size + 2 : 0;
    return sum;
  }
  void append_to(fmt::memory_buffer& out) const {
    for (const Figure& figure : figures_)
      if (figure.size) append(out, "  {}", std::string_view(figure.text, figure.size));
  }

 private:
  struct Figure {
    char text[40] = {};
    std::size_t size = 0;
    int rank = -1;
  };
  std::array<Figure, 8> figures_;
  std::size_t count_ = 0;
};

}  // namespace

int terminal_columns(int descriptor) {
  winsize size{};
  return ::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

double StepReport::utilization() const {
  double sum = 0;
  for (const auto& layer : layers) sum += layer.utilization;
  return layers.empty() ? 1.0 : sum / static_cast<double>(layers.size());
}

double StepReport::moe_milliseconds() const {
  double sum = 0;
  for (const auto& layer : layers) sum += layer.milliseconds;
  return sum;
}

void format_line(fmt::memory_buffer& out, const StepReport& report) {
  append_text(out, "step ");
  append_steps(out, report);
  append(out, "  epoch {:.2f}", report.epoch);
  for (const TaskReport& task : report.tasks) {
    if (!task.steps_taken) continue;
    append_text(out, "  ");
    if (report.tasks.size() > 1) append(out, "{} ", task.name);
    append(out, "loss {:.4f}", task.loss);
    if (task.accuracy) append(out, "  acc {:.3f}", *task.accuracy);
  }
  append(out, "  lr {:.1e}  tokens/s {:.0f}", report.learning_rate, report.tokens_per_second);
  append(out, "  utilization {:.2f}", report.utilization());
  if (report.timed) append(out, "  moe {:.1f} ms", report.moe_milliseconds());
  const std::size_t before = out.size();
  append_text(out, "  eta ");
  if (!append_time_left(out, report)) out.resize(before);
  for (std::size_t i = 0; i < report.layers.size(); ++i) {
    const MoeLayerReport& layer = report.layers[i];
    append(out, "  [layer {}: utilization {:.2f}", i, layer.utilization);
    if (report.timed) append(out, " moe {:.1f} ms", layer.milliseconds);
    append_text(out, " load");
    for (const double load : layer.load) append(out, " {:.2f}", load);
    append_text(out, "]");
  }
}

void format_bar(fmt::memory_buffer& out, const StepReport& report, int columns, bool colour) {
  // The last column stays free: some terminals wrap as soon as it is written.
  const auto room = static_cast<std::size_t>(std::max(columns - 1, 1));
  const std::size_t start = out.size();
  append_steps(out, report);
  const std::size_t steps = std::min(out.size() - start, room);
  out.resize(start);

  Figures figures;
  figures.add(6, "epoch {:.1f}", report.epoch);
  if (report.tasks.size() == 1) {
    figures.add(1, "loss {:.3f}", report.tasks.front().loss);
    if (report.tasks.front().accuracy) figures.add(2, "acc {:.3f}", *report.tasks.front().accuracy);
  } else {
    for (const TaskReport& task : report.tasks)
      if (task.steps_taken) figures.add(1, "{} {:.3f}", task.name, task.loss);
  }
  figures.add(4, "{:.0f} tokens/s", report.tokens_per_second);
  figures.add(5, "utilization {:.2f}", report.utilization());
  double least = 1, most = 1;
  for (const auto& layer : report.layers) {
    for (const double load : layer.load) {
      least = std::min(least, load);
      most = std::max(most, load);
    }
  }
  if (!report.layers.empty()) figures.add(7, "load {:.2f}-{:.2f}", least, most);
  if (append_time_left(out, report)) {
    figures.add(3, "eta {}", std::string_view(out.data() + start, out.size() - start));
    out.resize(start);
  }
  // A bar needs at least 10 cells, its brackets and a blank; on a narrow terminal the figures take
  // precedence.
  const std::size_t least_bar = report.total_steps > 0 && room >= steps + 50 ? 13 : 0;
  figures.fit(room - steps - least_bar);

  if (least_bar > 0) {
    const std::size_t left = room - steps - figures.width();
    const std::size_t cells = std::min<std::size_t>(left - 3, 40);
    const double done = static_cast<double>(report.step) / static_cast<double>(report.total_steps);
    const auto full = static_cast<std::size_t>(std::clamp(done, 0.0, 1.0) * static_cast<double>(cells));
    append_text(out, "[");
    if (colour) append_text(out, kGreen);
    append(out, "{:=<{}}", "", full);
    if (colour) append_text(out, kNormal);
    append(out, "{:<{}}] ", full < cells ? ">" : "", cells - full);
  }
  const std::size_t number = out.size();
  append_steps(out, report);
  out.resize(number + steps);
  figures.append_to(out);
}

ProgressOptions progress_options(int descriptor, const char* no_color, const char* term) {
  const bool terminal = ::isatty(descriptor) && term && *term && std::string_view(term) != "dumb";
  const bool colourless = no_color && *no_color;  // https://no-color.org: present and not empty
  return {.descriptor = descriptor, .bar = terminal, .colour = terminal && !colourless};
}

void Progress::show(const StepReport& report) {
  out_.clear();
  if (options_.bar) {
    bar_.clear();
    format_bar(bar_, report, options_.columns ? options_.columns : terminal_columns(options_.descriptor),
               options_.colour);
    append_text(out_, kErase);
    out_.append(bar_.begin(), bar_.end());
  } else {
    format_line(out_, report);
    append_text(out_, "\n");
  }
  write();
}

void Progress::message(std::string_view text) {
  out_.clear();
  if (bar_.size() > 0) append_text(out_, kErase);
  append_text(out_, text);
  append_text(out_, "\n");
  out_.append(bar_.begin(), bar_.end());
  write();
}

void Progress::finish() {
  if (bar_.size() == 0) return;
  bar_.clear();
  out_.clear();
  append_text(out_, "\n");
  write();
}

void Progress::write() {
  for (std::size_t done = 0; done < out_.size();) {
    const ssize_t count = ::write(options_.descriptor, out_.data() + done, out_.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    done += static_cast<std::size_t>(count);
  }
}

}  // namespace conclave

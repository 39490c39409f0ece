#include "recipes/bench/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "core/random.h"

namespace conclave::bench {

double seconds(const std::function<void()>& work) {
  const Clock::time_point start = Clock::now();
  work();
  return seconds_since(start);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Comparison compare(const std::function<void()>& subject, const std::function<void()>& reference,
                   std::int64_t repetitions, const std::function<void()>& tidy) {
  reference();
  subject();
  tidy();
  std::vector<double> subjects, references, ratios;
  double before = seconds(reference);
  for (std::int64_t i = 0; i < repetitions; ++i) {
    // A subject is compared with the references before and after it, so that a change of the machine's load
    // in between affects both. Each follows the other, and finds in the caches what that left there.
    subjects.push_back(seconds(subject));
    tidy();
    const double after = seconds(reference);
    references.push_back((std::exchange(before, after) + after) / 2);
    ratios.push_back(references.back() / subjects.back());
  }
  return {median(subjects), median(references), median(ratios)};
}

void fill(const Tensor& x, std::uint32_t number) {
  const RandomStream stream{.seed = 1, .tensor = number};
  std::uint64_t i = 0;
  for (float& value : x.span<float>()) value = static_cast<float>(stream.uniform(i++) - 0.5);
}

void print_figure(std::string_view what, std::string_view figure, double target) {
  fmt::print("{:.<68} {}{}\n", fmt::format("{} ", what), figure,
             target > 0 ? fmt::format(" (target {:.0f}%)", 100 * target) : "");
  std::fflush(stdout);
}

}  // namespace conclave::bench

#include "autograd/nn/range_observer.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>

#include "autograd/nn/parameter_set.h"
#include "tests/core/values.h"

namespace conclave {
namespace {

using Kind = ObserverOptions::Kind;

struct Observed {
  explicit Observed(const ObserverOptions& options, Index groups = 1)
      : observer(options, groups), parameters(observer, DType::f32, 0) {}

  void see(const Tensor& x, const std::vector<Index>& offsets, Index first = 0) {
    observer.see(tape, x, offsets, first);
  }
  void see(const Tensor& x) { see(x, {0, x.size(0)}); }
  /// {lowest, highest} of each group, from the scales and zero points for levels 0 to 2^20.
  std::vector<std::pair<double, double>> ranges(Index groups) {
    const auto [scale, zero] = observer.scales(tape, {0, 1 << 20}, 0, groups);
    std::vector<std::pair<double, double>> found;
    for (Index g = 0; g < groups; ++g) {
      const double s = double(scale.data<float>()[g]), z = double(zero.data<float>()[g]);
      found.emplace_back(-z * s, ((1 << 20) - z) * s);
    }
    return found;
  }

  RangeObserver observer;
  ParameterSet parameters;
  Arena arena{"test"};
  Tape tape{arena};
};

Tensor values(std::initializer_list<float> list) {
  return Tensor::of<float>({static_cast<Index>(list.size()), 1}, list);
}

void check(const std::pair<double, double>& range, double lowest, double highest) {
  CHECK(range.first == Approx(lowest).margin(1e-4));
  CHECK(range.second == Approx(highest).margin(1e-4));
}

TEST_CASE("min_max keeps the widest range, moving_average follows new ranges", "[observer]") {
  Observed widest({.kind = Kind::min_max}), average({.kind = Kind::moving_average, .momentum = 0.25});
  CHECK_FALSE(widest.observer.has_seen());
  for (Observed* observed : {&widest, &average}) {
    observed->see(values({-1, 2}));
    observed->see(values({3}));  // in the same step
    observed->observer.learn();
    check(observed->ranges(1)[0], -1, 3);
    observed->see(values({-5, 1}));
    observed->observer.learn();
    observed->observer.learn();  // without new values
  }
  CHECK(widest.observer.has_seen());
  check(widest.ranges(1)[0], -5, 3);
  check(average.ranges(1)[0], -2, 2.5);
}

TEST_CASE("the percentile observer leaves the given share outside, up to one bin", "[observer]") {
  Observed observed({.kind = Kind::percentile, .percentile = 99});
  const Tensor x = random_values({40'000, 8}, 1, DType::f32);
  observed.see(x);
  observed.observer.learn();
  const auto [lowest, highest] = observed.ranges(1)[0];
  CHECK(lowest == Approx(-2.576).epsilon(0.05));  // half a percent of a normal distribution is below
  CHECK(highest == Approx(2.576).epsilon(0.05));
}

TEST_CASE("percentiles leave out what is not a number", "[observer]") {
  Observed observed({.kind = Kind::percentile, .percentile = 100}),
      without({.kind = Kind::percentile, .percentile = 100});
  observed.see(values({1, -2, std::numeric_limits<float>::quiet_NaN(), 3}));
  without.see(values({1, -2, 3}));
  observed.observer.learn(), without.observer.learn();
  CHECK(observed.ranges(1) == without.ranges(1));
}

TEST_CASE("an expert that saw few rows uses the range of its layer", "[observer]") {
  Observed observed({.kind = Kind::min_max}, 4);
  const auto enough = static_cast<Index>(RangeObserver::kEnoughRows);
  const Tensor x = Tensor::zeros({2 * enough + 1, 1});
  x.data<float>()[0] = -2;
  x.data<float>()[enough] = 7;
  x.data<float>()[2 * enough] = 1;
  // Rows of experts 1, 2 and 3; expert 3 has one row. Expert 0 is on another rank and has none.
  observed.see(x, {0, enough, 2 * enough, 2 * enough + 1}, 1);
  observed.observer.learn();
  const auto ranges = observed.ranges(4);
  check(ranges[0], -2, 7);
  check(ranges[1], -2, 0);
  check(ranges[2], 0, 7);
  check(ranges[3], -2, 7);
}

TEST_CASE("combined ranges of parts equal the range of the whole", "[observer]") {
  for (const Kind kind : {Kind::min_max, Kind::moving_average, Kind::percentile}) {
    const ObserverOptions options{.kind = kind, .percentile = 90};
    Observed whole(options, 2), first(options, 2), second(options, 2);
    const Tensor x = random_values({1000, 24}, 1, DType::f32);
    whole.see(x, {0, 400, 1000});
    first.see(x.rows(0, 300), {0, 300, 300});
    second.see(x.rows(300, 1000), {0, 100, 700});
    for (std::size_t i = 0; i < first.observer.least().size(); ++i)
      first.observer.least()[i] = std::min(first.observer.least()[i], second.observer.least()[i]);
    for (std::size_t i = 0; i < first.observer.sums().size(); ++i)
      first.observer.sums()[i] += second.observer.sums()[i];
    for (Observed* observed : {&whole, &first}) observed->observer.learn();
    for (std::size_t i = 0; i < whole.parameters.buffers().size(); ++i)
      CHECK(same_bits(whole.parameters.buffers()[i]->values, first.parameters.buffers()[i]->values));
  }
}

TEST_CASE("percentiles cover all columns and have no fixed limits", "[observer]") {
  Observed observed({.kind = Kind::percentile, .percentile = 100});
  Tensor x = Tensor::zeros({300, 16});
  for (Index row = 0; row < 300; ++row) x.data<float>()[row * 16 + 5] = static_cast<float>(row % 3 - 1);
  observed.see(x);
  observed.observer.learn();
  const auto [lowest, highest] = observed.ranges(1)[0];
  CHECK(lowest == Approx(-1).epsilon(0.03));
  CHECK(highest == Approx(1).epsilon(0.03));
  observed.see(values({-70000, 1e6F}));
  observed.observer.learn();
  check(observed.ranges(1)[0], -70000, 1e6);
}

}  // namespace
}  // namespace conclave

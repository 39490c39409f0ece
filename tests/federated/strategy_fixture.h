// Rounds of random updates, with plain formulas as references.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "core/random.h"
#include "federated/strategies/strategy.h"

namespace conclave {

/// [count] values in [-scale, scale), different for each `number`.
inline std::vector<float> random_floats(std::size_t count, std::uint32_t number, double scale = 1) {
  const RandomStream stream{.seed = 7, .tensor = number};
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>((2 * stream.uniform(i) - 1) * scale);
  return values;
}

/// All strategies but those that tests register.
inline std::vector<std::string> own_strategies() {
  auto kinds = strategy_kinds();
  std::erase_if(kinds, [](const std::string& name) { return name.starts_with("test_"); });
  return kinds;
}

/// Updates [sites][elements] and weights of a round.
struct TrialRound {
  TrialRound(std::size_t sites, std::size_t elements, std::uint32_t number = 0) {
    for (std::size_t i = 0; i < sites; ++i) {
      changes.push_back(random_floats(elements, number * 1000 + static_cast<std::uint32_t>(i)));
      weights.push_back(static_cast<double>(10 + (i * 37) % 91));
    }
  }
  /// Updates of one element each.
  explicit TrialRound(std::initializer_list<float> values) : TrialRound(std::vector<float>(values)) {}
  explicit TrialRound(const std::vector<float>& values) : weights(values.size(), 1.0) {
    for (const float value : values) changes.push_back({value});
  }

  RoundUpdates updates() const { return {.weights = weights}; }
  std::vector<double> norms() const {
    std::vector<double> result;
    for (const auto& change : changes) {
      double sum = 0;
      for (const float value : change) sum += static_cast<double>(value) * value;
      result.push_back(std::sqrt(sum));
    }
    return result;
  }
  /// Elements [offset, offset + n) of all updates.
  std::vector<std::span<const float>> block(std::size_t offset, std::size_t n) const {
    std::vector<std::span<const float>> spans;
    for (const auto& change : changes) spans.push_back(std::span(change).subspan(offset, n));
    return spans;
  }
  /// The weighted mean of element j, in f64.
  double mean(std::size_t j) const {
    double sum = 0, total = 0;
    for (std::size_t i = 0; i < changes.size(); ++i) sum += weights[i] * changes[i][j], total += weights[i];
    return sum / total;
  }
  /// Runs a whole round, in blocks of up to `length` elements, each within one vector.
  void run(Strategy& strategy, std::span<float> global, std::size_t length, RoundUpdates updates) const {
    const auto lengths = norms();
    if (strategy.traits().needs_norms) updates.norms = lengths;
    strategy.begin_round(updates);
    for (std::size_t begin = 0; begin < global.size();) {
      const std::size_t vector_end = (begin / strategy.elements() + 1) * strategy.elements();
      const std::size_t n = std::min(length, vector_end - begin);
      strategy.aggregate({begin, global.subspan(begin, n), block(begin, n)});
      begin += n;
    }
  }
  void run(Strategy& strategy, std::span<float> global) const {
    run(strategy, global, strategy.elements(), updates());
  }

  std::vector<std::vector<float>> changes;
  std::vector<double> weights;
};

}  // namespace conclave

#include "federated/strategies/round.h"

#include <algorithm>
#include <cmath>
#include <exception>

#include "core/error.h"
#include "federated/strategies/tiles.h"

namespace conclave {
namespace {

// The same run of elements for all updates.
class Blocks {
 public:
  Blocks(std::span<const SiteUpdate> updates, std::size_t elements, std::size_t memory)
      : updates_(updates),
        length_(std::min(elements, std::max(memory / sizeof(float) / updates.size(), strategies::kTile))),
        values_(length_ * updates.size()),
        errors_(updates.size()) {}

  std::size_t length() const { return length_; }
  std::span<const float> of(std::size_t update, std::size_t n) const {
    return std::span(values_).subspan(update * length_, n);
  }

  void read(std::size_t offset, std::size_t n) {
    for_updates([&](std::size_t i) { updates_[i].read(offset, std::span(values_).subspan(i * length_, n)); });
  }
  /// Calls work(i) for each update on several threads. Rethrows the exception of the first update that has
  /// one.
  template <class Work>
  void for_updates(const Work& work) {
#pragma omp parallel for schedule(dynamic)
    for (std::size_t i = 0; i < updates_.size(); ++i) {
      try {
        work(i);
      } catch (...) {
        errors_[i] = std::current_exception();
      }
    }
    for (const std::exception_ptr& error : errors_)
      if (error) std::rethrow_exception(error);
  }

 private:
  std::span<const SiteUpdate> updates_;
  std::size_t length_;
  std::vector<float> values_;
  std::vector<std::exception_ptr> errors_;
};

std::vector<double> norms(Blocks& blocks, std::size_t updates, std::size_t total) {
  std::vector<double> squares(updates);
  for (std::size_t begin = 0; begin < total; begin += blocks.length()) {
    const std::size_t n = std::min(blocks.length(), total - begin);
    blocks.read(begin, n);
    blocks.for_updates([&](std::size_t i) { squares[i] += squared_norm(blocks.of(i, n)); });
  }
  for (std::size_t i = 0; i < updates; ++i) {
    require(std::isfinite(squares[i]), "update {}: it has values that are not finite", i);
    squares[i] = std::sqrt(squares[i]);
  }
  return squares;
}

}  // namespace

double rate_of_round(Schedule::Kind kind, std::int64_t round, std::int64_t rounds) {
  return Schedule{.kind = kind, .peak = 1, .total_steps = rounds}.at(round + 1);
}

void aggregate_round(Strategy& strategy, const SharingPolicy& policy, std::span<const SiteUpdate> updates,
                     std::span<float> global, const RoundLimits& limits) {
  const std::size_t elements = policy.exchanged_elements(), total = strategy.vectors() * elements;
  require(strategy.elements() == elements && global.size() == strategy.vectors() * policy.model_elements(),
          "{}: for {} shared elements, a global vector of {} and a policy that shares {} of {}",
          strategy.name(), strategy.elements(), global.size(), elements, policy.model_elements());
  require(!updates.empty(), "{}: a round without updates", strategy.name());
  std::vector<double> weights, staleness, tokens(updates.size());
  for (std::size_t i = 0; i < updates.size(); ++i) {
    weights.push_back(updates[i].weight);
    staleness.push_back(updates[i].staleness);
    require(updates[i].tokens.size() == policy.experts().size(),
            "update {}: tokens of {} experts, expected those of {}", i, updates[i].tokens.size(),
            policy.experts().size());
    for (const double count : updates[i].tokens)
      require(std::isfinite(count) && count >= 0, "update {}: an expert served {} tokens", i, count);
  }
  Blocks blocks(updates, elements, limits.memory);
  std::vector<double> lengths;
  if (strategy.traits().needs_norms) lengths = norms(blocks, updates.size(), total);
  strategy.begin_round({weights, staleness, lengths, limits.sites, limits.rate});

  std::vector<std::span<const float>> changes(updates.size());
  for (std::size_t v = 0; v < strategy.vectors(); ++v) {
    const std::size_t vector = v * elements;
    auto range = policy.ranges().begin();
    for (std::size_t begin = 0; begin < elements; begin += blocks.length()) {
      const std::size_t end = std::min(begin + blocks.length(), elements);
      blocks.read(vector + begin, end - begin);
      for (std::size_t at = begin; at < end;) {
        if (at == range->exchanged + range->size) ++range;
        const std::size_t stop = std::min(end, range->exchanged + range->size);
        for (std::size_t i = 0; i < updates.size(); ++i) {
          changes[i] = blocks.of(i, stop - begin).subspan(at - begin);
          if (range->expert >= 0) tokens[i] = updates[i].tokens[static_cast<std::size_t>(range->expert)];
        }
        const std::size_t in_model = v * policy.model_elements() + range->model + (at - range->exchanged);
        Block block{vector + at, global.subspan(in_model, stop - at), changes};
        if (range->expert >= 0) block.weights = tokens;
        strategy.aggregate(block);
        at = stop;
      }
      if (limits.passed) limits.passed();
    }
  }
}

}  // namespace conclave

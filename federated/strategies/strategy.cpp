#include "federated/strategies/strategy.h"

#include <algorithm>
#include <cmath>

#include "core/registry.h"
#include "federated/strategies/adaptive.h"
#include "federated/strategies/fed_avg.h"
#include "federated/strategies/fed_buff.h"
#include "federated/strategies/norm_bound.h"
#include "federated/strategies/scaffold.h"
#include "federated/strategies/trimmed_mean.h"

namespace conclave {
namespace {

// What is registered; callable, as Registry::make() wants a factory to be.
struct StrategyKind {
  StrategyFactory factory;
  StrategyTraits traits;

  std::unique_ptr<Strategy> operator()(const StrategyOptions& options, std::size_t elements) const {
    return factory(options, elements);
  }
};

template <class Kind>
StrategyKind own_kind() {
  return {[](const StrategyOptions& options, std::size_t elements) {
            return std::make_unique<Kind>(options, elements);
          },
          Kind::kTraits};
}

template <AdaptiveServer::Rule rule>
StrategyKind adaptive() {
  return {[](const StrategyOptions& options, std::size_t elements) {
            return std::make_unique<AdaptiveServer>(rule, options, elements);
          },
          AdaptiveServer::kTraits};
}

// Static in a function, so that it exists when initializers in other files register their kinds.
Registry<StrategyKind>& registry() {
  using Rule = AdaptiveServer::Rule;
  static Registry<StrategyKind> kinds("strategy", "a strategy",
                                      {{"fedavg", own_kind<FedAvg>()},
                                       {"fedprox", own_kind<FedProx>()},
                                       {"fedadam", adaptive<Rule::adam>()},
                                       {"fedyogi", adaptive<Rule::yogi>()},
                                       {"fedadagrad", adaptive<Rule::adagrad>()},
                                       {"scaffold", own_kind<Scaffold>()},
                                       {"fedbuff", own_kind<FedBuff>()},
                                       {"median", own_kind<Median>()},
                                       {"trimmed_mean", own_kind<TrimmedMean>()},
                                       {"norm_bound", own_kind<NormBound>()}});
  return kinds;
}

// Checks that `values` has a value for each update, and that each is finite and not negative.
void expect_possible(const char* what, std::span<const double> values, std::size_t updates) {
  require(values.size() == updates, "{} of {} updates, expected those of {}", what, values.size(), updates);
  for (std::size_t i = 0; i < updates; ++i)
    require(std::isfinite(values[i]) && values[i] >= 0, "update {}: {} {}, expected a number of at least 0",
            i, what, values[i]);
}

}  // namespace

Strategy::Strategy(const StrategyOptions& options, std::size_t elements)
    : options_(options), elements_(elements) {
  require(elements > 0, "a model without elements");
  require(std::isfinite(options.server_rate) && options.server_rate >= 0,
          "server_rate {}, expected above 0, or 0 for the strategy's own", options.server_rate);
}

void Strategy::begin_round(const RoundUpdates& updates) {
  const std::size_t count = updates.weights.size();
  require(count > 0, "{}: a round without updates", name());
  expect_possible("weight", updates.weights, count);
  require(std::ranges::any_of(updates.weights, [](double weight) { return weight > 0; }),
          "{}: all {} updates have weight 0", name(), count);
  if (!updates.staleness.empty()) expect_possible("staleness", updates.staleness, count);
  if (traits_.needs_norms) expect_possible("norm", updates.norms, count);
  require(std::isfinite(updates.rate) && updates.rate >= 0, "{}: a rate of {}", name(), updates.rate);
  weights_.assign(updates.weights.begin(), updates.weights.end());
  rate_ = updates.rate;
  RoundUpdates complete = updates;
  if (complete.sites == 0) complete.sites = count;
  prepare(complete);
}

void Strategy::aggregate(const Block& block) {
  Block checked = block;
  if (block.weights.empty()) checked.weights = weights_;
  const std::size_t count = weights_.size(), n = block.global.size(), end = block.offset + n;
  require(count > 0 && block.updates.size() == count, "{}: a block of {} updates in a round of {}", name(),
          block.updates.size(), count);
  require(end <= vectors() * elements_ && n <= end, "{}: elements {} to {} of {}", name(), block.offset, end,
          vectors() * elements_);
  for (std::size_t i = 0; i < count; ++i)
    require(block.updates[i].size() == n, "update {}: {} elements in a block of {}", i,
            block.updates[i].size(), n);
  if (!block.weights.empty()) expect_possible("weight", block.weights, count);
  require(n == 0 || block.offset / elements_ == (end - 1) / elements_,
          "{}: elements {} to {} are of two vectors of {}; cut the block between them", name(), block.offset,
          end, elements_);
  if (n > 0 && std::ranges::any_of(checked.weights, [](double weight) { return weight > 0; }))
    aggregate_block(checked);
}

StrategyRegistration::StrategyRegistration(const std::string& name, StrategyFactory factory,
                                           const StrategyTraits& traits, const char*) {
  register_kind([=](const std::string& plugin) {
    require(
        !traits.asynchronous || !traits.control_variate,
        "strategy '{}': its traits say asynchronous and control_variate; control variates need synchronous "
        "rounds",
        name);
    registry().add(name, {factory, traits}, plugin);
  });
}

std::unique_ptr<Strategy> make_strategy(const StrategyOptions& options, std::size_t elements) {
  auto strategy = registry().make(options.name, options, elements);
  options.own.expect_all_read();
  strategy->traits_ = strategy_traits(options.name);
  return strategy;
}

const StrategyTraits& strategy_traits(const std::string& name) {
  return registry().find(name).factory.traits;
}

std::vector<std::string> strategy_kinds() { return registry().names(); }

}  // namespace conclave

// Strategies: how the coordinator makes the next global model of what the sites send. Each site sends its
// change, trained minus global, of a flat vector; the coordinator keeps it in a file and aggregates block by
// block, so that its memory does not grow with the number of sites (federated/strategies/round.h does that).
// What it needs to know of whole updates, it is told before the first block. A new kind is one subclass and
// one registration:
//
//   struct MyStrategy : Strategy { ... };
//   CONCLAVE_REGISTER_STRATEGY("mine", MyStrategy);
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/plugin.h"

namespace conclave {

struct StrategyOptions {
  std::string name = "fedavg";
  double server_rate = 0;            ///< eta of the server; 0: the strategy's own
  double beta1 = 0.9, beta2 = 0.99;  ///< decays of the adaptive ones' moments
  double adaptivity = 1e-3;          ///< tau of the adaptive ones
  double proximal = 0.01;            ///< mu of fedprox
  std::int64_t sites = 0;            ///< of the whole federation, which scaffold has to know
  std::int64_t buffer = 10;          ///< K of fedbuff, updates
  double trimmed = 0.1;              ///< share of the sites cut off at either end by trimmed_mean
  double norm_bound = 0;             ///< M of norm_bound, the longest an update may be
};

/// What is known of a round's updates as a whole. Under secure aggregation there is one update, the weighted
/// mean of `sites`, and its weight is the sum of theirs.
struct RoundUpdates {
  std::span<const double> weights;         ///< [updates] of each: the examples it was trained on
  std::span<const double> staleness = {};  ///< [updates] rounds since its site was sent a model; empty: 0
  std::span<const double> norms = {};      ///< [updates] Euclidean; empty unless the strategy needs_norms()
  std::size_t sites = 0;                   ///< that took part; 0: as many as updates
  double rate = 1;                         ///< what server_rate is multiplied by
};

/// A run of elements of the global vector, and the sites' changes of them.
struct Block {
  std::size_t offset = 0;                           ///< of the first in the global vector
  std::span<float> global;                          ///< [n], changed in place
  std::span<const std::span<const float>> updates;  ///< [updates][n], finite
  /// [updates], where other than the round's (federated/policy.h); of weight 0 is who has nothing to say
  /// here.
  std::span<const double> weights = {};
};

/// What sites are told to do beside their own training.
struct SiteRules {
  double proximal = 0;           ///< mu: add mu / 2 |w - global|^2 to the loss (Li et al. 2020, eq. 2)
  bool control_variate = false;  ///< correct gradients by it, and send its change (strategies/scaffold.h)
};

class Strategy {
 public:
  /// For a model of `elements`; throws Error where an option makes no sense.
  Strategy(const StrategyOptions& options, std::size_t elements);
  virtual ~Strategy() = default;
  Strategy(const Strategy&) = delete;
  Strategy& operator=(const Strategy&) = delete;

  const std::string& name() const { return options_.name; }
  /// How many vectors as long as the model the global vector consists of: the model and, after it, what else
  /// sites are sent and change. All of it is checkpointed with the model.
  virtual std::size_t vectors() const { return 1; }
  std::size_t elements() const { return elements_; }

  /// Whether the weighted mean is all it needs: then it works under secure aggregation.
  virtual bool needs_mean_only() const = 0;
  /// Whether the updates' norms have to be known before a round.
  virtual bool needs_norms() const { return false; }
  /// Where asynchronous: a round ends once so many updates have come, whoever sent them. 0: synchronous.
  virtual std::size_t buffer_size() const { return 0; }
  virtual SiteRules site_rules() const { return {}; }

  /// Throws Error, naming the update by its number, where there is none, or a number of it is impossible.
  void begin_round(const RoundUpdates& updates);
  /// Blocks of a round are disjoint, in any order, one at a time; what comes out does not depend on how the
  /// vector is cut into them. Results are finite: what would be too large becomes the largest float. Does
  /// nothing where all weights are 0. Throws Error where the block is not of this round's updates.
  void aggregate(const Block& block);

  /// Flat vectors as long as the model that must survive a restart, by name.
  virtual std::vector<std::pair<std::string, std::span<float>>> state() { return {}; }

 protected:
  /// begin_round() of numbers that are possible. Memory that blocks need is taken here, not for each of them.
  virtual void prepare(const RoundUpdates& updates) = 0;
  /// aggregate() of a block with weights, one of them above 0, that lies in one of the vectors().
  virtual void aggregate_block(const Block& block) = 0;
  double server_rate(double own) const {
    return rate_ * (options_.server_rate > 0 ? options_.server_rate : own);
  }

  const StrategyOptions options_;

 private:
  std::size_t elements_;
  std::vector<double> weights_;  // the round's
  double rate_ = 1;
};

using StrategyFactory =
    std::function<std::unique_ptr<Strategy>(const StrategyOptions&, std::size_t elements)>;

/// Makes `name` known; static objects of this type register a kind before main. There are:
///   fedavg                          the weighted mean (McMahan et al. 2017)
///   fedprox                         the same, and sites stay near the global model (Li et al. 2020)
///   fedadam, fedyogi, fedadagrad    the mean as a gradient (strategies/adaptive.h)
///   scaffold                        control variates against drift (strategies/scaffold.h)
///   fedbuff                         asynchronous (strategies/fed_buff.h)
///   median, trimmed_mean            robust, element by element (strategies/trimmed_mean.h)
///   norm_bound                      robust, by shortening long updates (strategies/norm_bound.h)
struct StrategyRegistration {
  StrategyRegistration(const std::string& name, StrategyFactory factory,
                       const char* mark = conclave_plugin_abi);
};

/// At namespace scope: CONCLAVE_REGISTER_STRATEGY("mine", MyStrategy); for `struct MyStrategy : Strategy`.
#define CONCLAVE_REGISTER_STRATEGY(name, Kind)                                             \
  static const ::conclave::StrategyRegistration CONCLAVE_UNIQUE_NAME(conclave_strategy_) { \
    name,                                                                                  \
        [](const ::conclave::StrategyOptions& options,                                     \
           std::size_t elements) -> std::unique_ptr<::conclave::Strategy> {                \
          return std::make_unique<Kind>(options, elements);                                \
        }                                                                                  \
  }

/// The strategy options.name for a model of `elements`. Throws Error, listing those there are, on an unknown
/// name, and where an option of it makes no sense.
std::unique_ptr<Strategy> make_strategy(const StrategyOptions& options, std::size_t elements);
std::vector<std::string> strategy_kinds();

}  // namespace conclave

// Strategies: how the coordinator makes the next global model from what the sites send. Each site sends its
// change, trained minus global, of a flat vector. The coordinator stores the changes in files and aggregates
// them block by block, so that its memory does not grow with the number of sites
// (federated/strategies/round.h does that). What a strategy must know about whole updates is passed before
// the first block. A new kind is one subclass and one registration:
//
//   struct MyStrategy : Strategy { static constexpr StrategyTraits kTraits{...}; ... };
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

#include "core/own_options.h"
#include "core/plugin.h"

namespace conclave {

struct StrategyOptions {
  std::string name = "fedavg";
  double server_rate = 0;            ///< eta of the server; 0: the strategy's default
  double beta1 = 0.9, beta2 = 0.99;  ///< decay rates of the adaptive strategies' moments
  double adaptivity = 1e-3;          ///< tau of the adaptive strategies
  double proximal = 0.01;            ///< mu of fedprox
  std::int64_t sites = 0;            ///< number in the whole federation, for scaffold
  std::int64_t buffer = 10;          ///< K of fedbuff, updates
  double trimmed = 0.1;              ///< trimmed_mean: fraction of the sites cut off at either end
  double norm_bound = 0;             ///< M of norm_bound: largest norm of an update
  std::string folder = {};  ///< for files of state() (core/mapped_vector.h); empty: state() is in memory
  OwnOptions own = {};      ///< strategy.options, for kinds of plug-ins; read them in the constructor
};

/// What is known of a round's updates as a whole. Under secure aggregation there is one update, the mean of
/// the updates of `sites` sites.
struct RoundUpdates {
  std::span<const double> weights;         ///< [updates] examples that each was trained on
  std::span<const double> staleness = {};  ///< [updates] rounds since the site got its model; empty: 0
  std::span<const double> norms = {};  ///< [updates] Euclidean norms; empty unless the strategy needs_norms
  std::size_t sites = 0;               ///< number that took part; 0: as many as updates
  double rate = 1;                     ///< factor of server_rate
};

/// A run of elements of the global vector, and the sites' changes of these elements.
struct Block {
  std::size_t offset = 0;                           ///< of the first element in the global vector
  std::span<float> global;                          ///< [n], changed in place
  std::span<const std::span<const float>> updates;  ///< [updates][n], finite
  /// [updates], if they are not the round's weights (federated/policy.h). An update of weight 0 does not take
  /// part in this block.
  std::span<const double> weights = {};
};

/// What sites must do in addition to their own training.
struct SiteRules {
  double proximal = 0;           ///< mu: add mu / 2 |w - global|^2 to the loss (Li et al. 2020, eq. 2)
  bool control_variate = false;  ///< correct gradients by a control variate, and send its change

  bool operator==(const SiteRules&) const = default;
};
/// Calls f(name, value) for each rule. Whatever tells sites the rules, or has sites agree to them, goes
/// through this, or binds all members at once as this does: then a rule that is added cannot be forgotten
/// there.
template <class Rules, class F>
constexpr void for_each_rule(Rules& rules, F f) {
  auto& [proximal, control_variate] = rules;
  f("proximal", proximal);
  f("control", control_variate);
}

/// What a kind of strategy needs of the rounds and of the sites, known before there is a model or an option.
/// Each kind says it in a static member kTraits, which hides that of its base.
struct StrategyTraits {
  /// The weighted mean of the updates is all that is needed: then the strategy works under secure aggregation
  /// and in simulations, unless it needs what is below.
  bool needs_mean_only = false;
  bool needs_norms = false;   ///< the norms of the updates must be known before a round
  bool asynchronous = false;  ///< options.buffer updates, from any sites, end a round
  bool proximal = false;      ///< sites stay near the global model: SiteRules::proximal is options.proximal
  /// SiteRules::control_variate. The global vector is then twice as long as the model: the model, followed by
  /// the control variate. Not for asynchronous rounds.
  bool control_variate = false;

  SiteRules rules(const StrategyOptions& options) const {
    return {.proximal = proximal ? options.proximal : 0, .control_variate = control_variate};
  }
  /// Whether what sites send may be summed up before the coordinator sees it.
  bool works_on_sums() const { return needs_mean_only && !asynchronous && !control_variate; }
};

/// Made by make_strategy(), which sets traits().
class Strategy {
 public:
  static constexpr StrategyTraits kTraits{};  // a strategy that looks at each update of a synchronous round

  /// For a model of `elements`; throws Error if an option is out of range.
  Strategy(const StrategyOptions& options, std::size_t elements);
  virtual ~Strategy() = default;
  Strategy(const Strategy&) = delete;
  Strategy& operator=(const Strategy&) = delete;

  const std::string& name() const { return options_.name; }
  const StrategyTraits& traits() const { return traits_; }
  /// Number of vectors in the global vector, each as long as the model: the model, followed by what else
  /// sites receive and change. All of it is checkpointed with the model.
  std::size_t vectors() const { return traits_.control_variate ? 2 : 1; }
  std::size_t elements() const { return elements_; }

  /// Number of updates, from any sites, that end an asynchronous round. 0: synchronous.
  std::size_t buffer_size() const {
    return traits_.asynchronous ? static_cast<std::size_t>(options_.buffer) : 0;
  }
  SiteRules site_rules() const { return traits_.rules(options_); }

  /// Throws Error if there are no updates, or, naming the update by its number, if one of its numbers is
  /// impossible.
  void begin_round(const RoundUpdates& updates);
  /// Blocks of a round are disjoint, in any order, one at a time. The result does not depend on how the
  /// vector is cut into blocks. Results are finite: a value that would be too large becomes the largest
  /// float. Does nothing if all weights are 0. Throws Error if the block does not fit this round's updates.
  void aggregate(const Block& block);

  /// Flat vectors, as long as the model, that must survive a restart, by name.
  virtual std::vector<std::pair<std::string, std::span<float>>> state() { return {}; }
  /// Gives back the memory of state(), which stays in options.folder.
  virtual void give_back() {}

 protected:
  /// begin_round() after its checks. Allocates the memory that blocks need, so that aggregate_block() does
  /// not.
  virtual void prepare(const RoundUpdates& updates) = 0;
  /// aggregate() after its checks: a weight is above 0, and the block is within one of the vectors().
  virtual void aggregate_block(const Block& block) = 0;
  double server_rate(double own) const {
    return rate_ * (options_.server_rate > 0 ? options_.server_rate : own);
  }

  const StrategyOptions options_;

 private:
  friend std::unique_ptr<Strategy> make_strategy(const StrategyOptions& options, std::size_t elements);

  StrategyTraits traits_;
  std::size_t elements_;
  std::vector<double> weights_;  // the round's
  double rate_ = 1;
};

using StrategyFactory =
    std::function<std::unique_ptr<Strategy>(const StrategyOptions&, std::size_t elements)>;

/// Registers a strategy as `name`; a static object of this type does so before main. There are:
///   fedavg                          the weighted mean (McMahan et al. 2017)
///   fedprox                         the same, with sites held near the global model (Li et al. 2020)
///   fedadam, fedyogi, fedadagrad    the mean as a gradient (strategies/adaptive.h)
///   scaffold                        control variates against drift (strategies/scaffold.h)
///   fedbuff                         asynchronous (strategies/fed_buff.h)
///   median, trimmed_mean            robust, element by element (strategies/trimmed_mean.h)
///   norm_bound                      robust, by shortening long updates (strategies/norm_bound.h)
struct StrategyRegistration {
  StrategyRegistration(const std::string& name, StrategyFactory factory, const StrategyTraits& traits,
                       const char* mark = conclave_plugin_abi);
};

/// At namespace scope: CONCLAVE_REGISTER_STRATEGY("mine", MyStrategy); for `struct MyStrategy : Strategy`
/// (or : MeanStrategy) with the constructor MyStrategy(const StrategyOptions& options, std::size_t elements).
#define CONCLAVE_REGISTER_STRATEGY(name, Kind)                                             \
  static const ::conclave::StrategyRegistration CONCLAVE_UNIQUE_NAME(conclave_strategy_) { \
    name,                                                                                  \
        [](const ::conclave::StrategyOptions& options,                                     \
           std::size_t elements) -> std::unique_ptr<::conclave::Strategy> {                \
          return std::make_unique<Kind>(options, elements);                                \
        },                                                                                 \
        Kind::kTraits                                                                      \
  }

/// Makes the strategy options.name for a model of `elements`. Throws Error on an unknown name, with a list of
/// the known ones, and if an option is out of range.
std::unique_ptr<Strategy> make_strategy(const StrategyOptions& options, std::size_t elements);
/// Throws Error, listing the known kinds, if `name` is unknown.
const StrategyTraits& strategy_traits(const std::string& name);
std::vector<std::string> strategy_kinds();

}  // namespace conclave

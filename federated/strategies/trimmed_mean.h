// Robust means, element by element (Yin et al. 2018, definitions 1 and 2): of n sites' values of an element,
// the k smallest and the k largest are left out. So up to k hostile sites cannot move the element out of the
// range of the honest ones. Every site counts once, because the number of examples that a site claims is as
// untrusted as its update. A site is left out only if its weight in the block is 0.
#pragma once

#include "federated/strategies/strategy.h"

namespace conclave {

/// k is options.trimmed n, rounded up, so that it covers one hostile site even among few sites; but at least
/// one or two values are left. The default of `server_rate` is 1.
class TrimmedMean : public Strategy {
 public:
  TrimmedMean(const StrategyOptions& options, std::size_t elements)
      : TrimmedMean(options, elements, options.trimmed) {}

 protected:
  /// `share` of the sites is cut off at either end; from 0 to 0.5.
  TrimmedMean(const StrategyOptions& options, std::size_t elements, double share);
  void prepare(const RoundUpdates& updates) override;
  void aggregate_block(const Block& block) override;

 private:
  double share_;
  std::vector<const float*> present_;  // updates with a weight in the block
  std::vector<float> columns_;         // [threads][updates][kColumns]
  int threads_ = 1;
};

/// Leaves out all but the middle value, or all but the middle two, and uses their mean.
class Median final : public TrimmedMean {
 public:
  Median(const StrategyOptions& options, std::size_t elements) : TrimmedMean(options, elements, 0.5) {}
};

}  // namespace conclave

// Robust means, element by element (Yin et al. 2018, definitions 1 and 2): of n sites' values of an element,
// the k smallest and the k largest are left out, and so up to k hostile sites cannot move it beyond where
// honest ones are. Each site counts once: how many examples one says that it has is as little to be trusted
// as its update. Only where a block's weights are 0 is a site left out.
#pragma once

#include "federated/strategies/strategy.h"

namespace conclave {

/// k is options.trimmed n, rounded up so that one hostile site is one too few even among few, but leaves a
/// value or two. `server_rate` is 1 unless said otherwise.
class TrimmedMean : public Strategy {
 public:
  TrimmedMean(const StrategyOptions& options, std::size_t elements)
      : TrimmedMean(options, elements, options.trimmed) {}
  bool needs_mean_only() const override { return false; }

 protected:
  /// `share` of the sites at either end, from 0 to 0.5.
  TrimmedMean(const StrategyOptions& options, std::size_t elements, double share);
  void prepare(const RoundUpdates& updates) override;
  void aggregate_block(const Block& block) override;

 private:
  double share_;
  std::vector<const float*> present_;  // updates that count in a block
  std::vector<float> columns_;         // [threads][updates][kColumns]
  int threads_ = 1;
};

/// All but the middle value, or the middle two, whose mean it is.
class Median final : public TrimmedMean {
 public:
  Median(const StrategyOptions& options, std::size_t elements) : TrimmedMean(options, elements, 0.5) {}
};

}  // namespace conclave

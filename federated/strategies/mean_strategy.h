// Base of the strategies that use the mean of the updates.
#pragma once

#include <span>
#include <vector>

#include "federated/strategies/strategy.h"

namespace conclave {

class MeanStrategy : public Strategy {
 public:
  static constexpr StrategyTraits kTraits{.needs_mean_only = true};
  using Strategy::Strategy;

 protected:
  /// Allocates the shares and sets all factors to 1.
  void prepare(const RoundUpdates& updates) override;
  /// Computes mean = (sum_i factor_i w_i update_i) / (sum_i w_i) and calls apply() with it.
  void aggregate_block(const Block& block) override;
  /// Changes global [n], the elements from `offset` on of the global vector, by the updates' mean [n]. Any
  /// thread.
  virtual void apply(std::size_t offset, std::span<float> global, std::span<const double> mean) = 0;
  /// global += rate mean
  static void add(double rate, std::span<const double> mean, std::span<float> global);

  std::vector<double> factors_;  ///< [updates], which prepare() may change
  bool count_equally_ = false;   ///< every weight above 0 counts as 1

 private:
  std::vector<double> shares_;
};

}  // namespace conclave

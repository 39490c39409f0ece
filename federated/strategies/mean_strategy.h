// What strategies share that go by a mean of the updates.
#pragma once

#include <span>
#include <vector>

#include "federated/strategies/strategy.h"

namespace conclave {

class MeanStrategy : public Strategy {
 public:
  using Strategy::Strategy;
  bool needs_mean_only() const override { return true; }

 protected:
  /// Room for the shares, all factors 1.
  void prepare(const RoundUpdates& updates) override;
  /// mean = (sum_i factor_i w_i update_i) / (sum_i w_i), and then apply() of it.
  void aggregate_block(const Block& block) override;
  /// global [n], elements from `offset` on of the global vector, by the updates' mean [n]; from any thread.
  virtual void apply(std::size_t offset, std::span<float> global, std::span<const double> mean) = 0;
  /// global += rate mean
  static void add(double rate, std::span<const double> mean, std::span<float> global);

  std::vector<double> factors_;  ///< [updates], for prepare() to change
  bool count_equally_ = false;   ///< whoever has a weight, has the weight 1

 private:
  std::vector<double> shares_;
};

}  // namespace conclave

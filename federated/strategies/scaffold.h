// SCAFFOLD (Karimireddy et al. 2020, algorithm 1, option II). A site i corrects each of its K steps of rate
// eta_l by its own control variate c_i and the global one c, and then estimates its own anew:
//
//   y = y - eta_l (g_i(y) - c_i + c)            from y = x
//   c_i' = c_i - c + (x - y) / (K eta_l)
//
// and sends both changes, y - x and c_i' - c_i. Where the steps are plain SGD's, (x - y) / (K eta_l) is the
// mean of the corrected gradients; sites take that mean itself, which is a gradient whatever optimizer makes
// steps of it, AdamW say. The global vector is two as long as the model, x and then c (zero at first): so c
// comes to the sites with the model, its changes with the model's, checked and aggregated as those are, and
// stays in the model's checkpoint. c_i never leaves its site, and goes on from the last update that counted,
// so that c stays what the sites' make together. Of a site with privacy it is of gradients that have their
// noise, and tells no more than they do. The coordinator's part, eq. 5:
//
//   x = x + eta_g mean_S (y - x),   c = c + |S| / N mean_S (c_i' - c_i)
//
// for the sites S of N that took part. Each counts the same, however many examples it has: only so is c
// always the mean of all c_i, also of those who were not there, and that of the gradients is the objective
// that x follows.
#pragma once

#include "federated/strategies/mean_strategy.h"

namespace conclave {

class Scaffold final : public MeanStrategy {
 public:
  /// options.sites is N. `server_rate` eta_g is 1 unless said otherwise.
  Scaffold(const StrategyOptions& options, std::size_t elements);
  std::size_t vectors() const override { return 2; }
  SiteRules site_rules() const override { return {.control_variate = true}; }

 protected:
  void prepare(const RoundUpdates& updates) override;
  void apply(std::size_t offset, std::span<float> global, std::span<const double> mean) override {
    add(offset < elements() ? server_rate(1) : participation_, mean, global);
  }

 private:
  double participation_ = 0;  // |S| / N
};

}  // namespace conclave

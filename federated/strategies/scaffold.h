// SCAFFOLD (Karimireddy et al. 2020, algorithm 1, option II). Site i corrects each of its K steps of rate
// eta_l by its own control variate c_i and the global one, c. Then it computes its own anew:
//
//   y = y - eta_l (g_i(y) - c_i + c)            from y = x
//   c_i' = c_i - c + (x - y) / (K eta_l)
//
// and sends both changes, y - x and c_i' - c_i. If the steps are those of plain SGD, (x - y) / (K eta_l) is
// the mean of the corrected gradients. Sites use this mean itself, because it is a gradient whichever
// optimizer makes the steps, for example AdamW. The global vector is twice as long as the model: x, followed
// by c (zero at first). So c is sent to the sites with the model, its changes come with the model's, they are
// checked and aggregated in the same way, and c is stored in the model's checkpoint. c_i never leaves its
// site. It continues from the site's last update that counted, so that c remains the mean of all c_i. At a
// site with privacy, c_i is computed from gradients that already contain their noise, and reveals no more
// than these do. The coordinator's part, eq. 5:
//
//   x = x + eta_g mean_S (y - x),   c = c + |S| / N mean_S (c_i' - c_i)
//
// for the sites S of N that took part. Every site counts equally, however many examples it has. Only then is
// c always the mean of all c_i, including those of sites that did not take part, and belongs to the objective
// that x follows. The coordinator scales c by N / N' if sites were added when it is started again, so that
// there are N'. Sites that were removed still count, because their c_i are in c (federated/control_sites.h).
#pragma once

#include "federated/strategies/mean_strategy.h"

namespace conclave {

class Scaffold final : public MeanStrategy {
 public:
  static constexpr StrategyTraits kTraits{.needs_mean_only = true, .control_variate = true};
  /// options.sites is N. The default of `server_rate`, eta_g, is 1.
  Scaffold(const StrategyOptions& options, std::size_t elements);

 protected:
  void prepare(const RoundUpdates& updates) override;
  void apply(std::size_t offset, std::span<float> global, std::span<const double> mean) override {
    add(offset < elements() ? server_rate(1) : participation_, mean, global);
  }

 private:
  double participation_ = 0;  // |S| / N
};

}  // namespace conclave

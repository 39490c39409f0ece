// What the coordinator's rules add to a site's gradients: FedProx's pull towards the start of the round (Li
// et al. 2020), and SCAFFOLD's control variate (Karimireddy et al. 2020).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "core/arena.h"
#include "federated/strategies/strategy.h"
#include "parallel/checkpoint/checkpoint.h"

namespace conclave {

class SiteTerms {
 public:
  /// `parameters` must outlive the object. Allocates only what the rules need.
  explicit SiteTerms(const ParameterSet& parameters) : parameters_(parameters) {}

  /// `correction` is what the control variate (federated/strategies/scaffold.h) adds to the gradients of each
  /// step; `gradient` is the mean over the steps of the corrected gradients, before clipping. Both have this
  /// rank's part of every parameter, named "control/..." in place of "model/..."; both are zeros at first.
  struct ControlEntries {
    std::vector<TensorEntry> correction, gradient;
  };
  ControlEntries control_entries();

  /// Begins a round of this many steps from the current parameters. Throws Error if the rules have a control
  /// variate and control_entries() was never called.
  void begin(const SiteRules& rules, std::int64_t steps);
  /// Call in each step, once gradients are summed over the ranks.
  void add_to_gradients();

 private:
  std::unique_ptr<Arena> copies(const std::string& name,
                                std::initializer_list<std::vector<Tensor>*> lists) const;

  const ParameterSet& parameters_;
  SiteRules rules_;
  std::int64_t steps_ = 1;
  std::unique_ptr<Arena> anchor_memory_, control_memory_;
  std::vector<Tensor> anchor_, correction_, mean_gradient_;  // by segment
};

}  // namespace conclave

// What a site of a federation adds to its gradients by the coordinator's rules: FedProx's pull back to where
// a round began (Li et al. 2020), and SCAFFOLD's control variate (Karimireddy et al. 2020).
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
  /// `parameters` must outlive it. Takes memory only for what rules ask for.
  explicit SiteTerms(const ParameterSet& parameters) : parameters_(parameters) {}

  /// What the control variate (federated/strategies/scaffold.h) adds to the gradients of each step, and the
  /// mean over the steps of what came out, before it was clipped. This rank's part of every parameter, named
  /// "control/..." where that is "model/..."; zeros at first.
  struct ControlEntries {
    std::vector<TensorEntry> correction, gradient;
  };
  ControlEntries control_entries();

  /// So many steps follow, from the parameters as they are. Throws Error where the rules have a control
  /// variate and nobody asked for its entries.
  void begin(const SiteRules& rules, std::int64_t steps);
  /// In each of them, once gradients are summed over the ranks.
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

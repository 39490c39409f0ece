// Experts. One BaseExpert object is a rank's share of a layer's experts, computed together: rows arrive
// sorted by expert, and a subclass is free to group their products. A new kind is one subclass and one
// registration:
//
//   struct MyExperts : BaseExpert { ... };
//   const ExpertRegistration mine{"mine", [](const ExpertOptions& o) { return std::make_unique<MyExperts>(o);
//   }};
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/functions/functions.h"
#include "autograd/nn/module.h"

namespace conclave {

struct ExpertOptions {
  Index hidden = 0;  ///< size of the rows that come in and go out
  Index ffn = 0;     ///< size of the inner layer
  Index first = 0;   ///< global index of this rank's first expert
  Index count = 0;   ///< experts on this rank
  Index total = 0;   ///< experts of the layer, over all ranks
};

class BaseExpert : public Module {
 public:
  explicit BaseExpert(const ExpertOptions& options) : options_(options) {}

  /// rows [n, hidden]; expert number i of this rank owns rows [offsets[i], offsets[i + 1]) -> [n, hidden].
  virtual Tensor forward(Tape& tape, const Tensor& rows, kernels::RowOffsets offsets) = 0;

 protected:
  /// A parameter with one slice per expert: [experts on this rank, ...], sharded along dimension 0.
  Parameter& add_expert_parameter(std::string name, Shape per_expert, Initializer initializer,
                                  bool decay = true);

  ExpertOptions options_;
};

using ExpertFactory = std::function<std::unique_ptr<BaseExpert>(const ExpertOptions&)>;

/// Makes `name` known to recipes (moe.expert); static objects of this type register a kind before main.
struct ExpertRegistration {
  ExpertRegistration(const std::string& name, ExpertFactory factory);
};

/// Throws Error, listing the kinds there are, on an unknown name.
std::unique_ptr<BaseExpert> make_experts(const std::string& name, const ExpertOptions& options);
std::vector<std::string> expert_kinds();

}  // namespace conclave

// Experts. One BaseExpert object holds this rank's experts of one kind in a layer. They are computed
// together: rows arrive sorted by expert, so a subclass can use grouped products. A new kind is one subclass
// and one registration:
//
//   struct MyExperts : BaseExpert { ... };
//   CONCLAVE_REGISTER_EXPERT("mine", MyExperts);
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/functions/functions.h"
#include "autograd/nn/module.h"
#include "autograd/nn/quantizer.h"
#include "core/own_options.h"
#include "core/plugin.h"

namespace conclave {

struct ExpertOptions {
  Index hidden = 0;                      ///< size of an input row and of an output row
  Index ffn = 0;                         ///< size of the inner layer
  Index first = 0;                       ///< number of this rank's first expert among those of its kind
  Index count = 0;                       ///< experts on this rank; 0 if other ranks hold all of this kind
  Index total = 0;                       ///< experts of the kind in the layer, over all ranks
  std::string name = {};                 ///< name of the kind in recipes
  Quantization* quantization = nullptr;  ///< the model's; null: experts are not quantized
  OwnOptions own = {};                   ///< moe.options, for kinds of plug-ins; read them in the constructor
};

/// Input of a rank's experts of one kind: local expert i gets rows [offsets[i], offsets[i + 1]).
struct ExpertInput {
  Tensor rows;                  ///< [n, hidden]
  kernels::RowOffsets offsets;  ///< [experts on this rank + 1]
  /// Set only if wants_sequences(): [runs + 1], offsets of runs. A run has all rows of one sequence that came
  /// to one expert, in the sequence's order.
  kernels::RowOffsets sequences = {};
};

class BaseExpert : public Module {
 public:
  explicit BaseExpert(const ExpertOptions& options) : options_(options) {}

  /// Returns [n, hidden], one output row for each input row. n may be 0. `input` is valid only during the
  /// call; autograd functions copy the offsets they are given.
  virtual Tensor forward(Tape& tape, const ExpertInput& input) = 0;

  /// Whether forward needs ExpertInput::sequences. A layer with such experts receives all its rows in one
  /// round, so memory is planned for the case that the rows of all ranks come to one rank.
  virtual bool wants_sequences() const { return false; }

  /// Floating point operations of one row's forward pass. The default counts the products with an expert's
  /// matrices.
  virtual double flops_per_row() const;

  const std::string& name() const { return options_.name; }
  /// The name in messages: "experts of kind 'lstm' (of libmedical.so)".
  std::string described() const;

 protected:
  /// A parameter with one slice per expert: [experts on this rank, ...], sharded along dimension 0. Other
  /// parameters, which all experts share, are refused in layers of several kinds.
  Parameter& add_expert_parameter(std::string name, Shape per_expert, Initializer initializer,
                                  bool decay = true);

  /// The quantizer of a product with `weight` [experts on this rank, out, in], added as a module `name`. Null
  /// if experts are not quantized.
  std::unique_ptr<Quantizer> make_quantizer(std::string name, const Parameter& weight);

  ExpertOptions options_;
};

using ExpertFactory = std::function<std::unique_ptr<BaseExpert>(const ExpertOptions&)>;

/// Makes `name` known to recipes (moe.expert). Static objects of this type register a kind before main. The
/// built-in kinds are:
///   feed_forward  down(gelu(up x)), with biases
///   gated         down(silu(gate x) * up x), without biases (SwiGLU; Shazeer 2020, eq. 6)
struct ExpertRegistration {
  /// `mark` is never read. It makes a plug-in that registers something refer to the symbol of the plug-in
  /// ABI.
  ExpertRegistration(const std::string& name, ExpertFactory factory, const char* mark = conclave_plugin_abi);
};

/// At namespace scope: CONCLAVE_REGISTER_EXPERT("mine", MyExperts); for `struct MyExperts : BaseExpert`.
#define CONCLAVE_REGISTER_EXPERT(name, Experts)                                                     \
  static const ::conclave::ExpertRegistration CONCLAVE_UNIQUE_NAME(conclave_expert_) {              \
    name, [](const ::conclave::ExpertOptions& options) -> std::unique_ptr<::conclave::BaseExpert> { \
      return std::make_unique<Experts>(options);                                                    \
    }                                                                                               \
  }

/// Throws Error, listing the known kinds, if `name` is unknown. Sets options.name to `name`.
std::unique_ptr<BaseExpert> make_experts(const std::string& name, ExpertOptions options);
std::vector<std::string> expert_kinds();
/// Throws Error, listing the known kinds, if `name` is unknown.
void expect_expert_kind(const std::string& name);

}  // namespace conclave

// Experts. One BaseExpert object is a rank's share of a layer's experts of one kind, computed together: rows
// arrive sorted by expert, and a subclass is free to group their products. A new kind is one subclass and one
// registration:
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
#include "core/plugin.h"

namespace conclave {

struct ExpertOptions {
  Index hidden = 0;       ///< size of the rows that come in and go out
  Index ffn = 0;          ///< size of the inner layer
  Index first = 0;        ///< this rank's first expert, by its number among those of its kind
  Index count = 0;        ///< experts on this rank; none, where other ranks hold all of the kind
  Index total = 0;        ///< experts of the kind in the layer, over all ranks
  std::string name = {};  ///< of the kind, in recipes
  Quantization* quantization = nullptr;  ///< of the model; null: experts are not quantized
};

/// What a rank's experts of one kind are given: number i of them owns rows [offsets[i], offsets[i + 1]).
struct ExpertInput {
  Tensor rows;                  ///< [n, hidden]
  kernels::RowOffsets offsets;  ///< [experts on this rank + 1]
  /// Where the kind wants_sequences(): [runs + 1], the runs of rows that are of one sequence and one expert.
  /// A run has the tokens of its sequence that came to the expert, in their order; no other run has any of
  /// them.
  kernels::RowOffsets sequences = {};
};

class BaseExpert : public Module {
 public:
  explicit BaseExpert(const ExpertOptions& options) : options_(options) {}

  /// -> [n, hidden], a row for each that came. n may be 0. `input` lives as long as the call; functions copy
  /// the offsets they are given.
  virtual Tensor forward(Tape& tape, const ExpertInput& input) = 0;

  /// Whether forward is told which rows are of one sequence. A layer with such experts receives all its rows
  /// in one round: memory is planned for those of all ranks coming to one.
  virtual bool wants_sequences() const { return false; }

  /// Floating point operations of a row's forward pass. As long as it is not said otherwise, those of the
  /// products with an expert's matrices.
  virtual double flops_per_row() const;

  const std::string& name() const { return options_.name; }
  /// The name in messages: "experts of kind 'lstm' (of libmedical.so)".
  std::string described() const;

 protected:
  /// A parameter with one slice per expert: [experts on this rank, ...], sharded along dimension 0.
  Parameter& add_expert_parameter(std::string name, Shape per_expert, Initializer initializer,
                                  bool decay = true);

  /// What rounds a product with `weight` [experts on this rank, out, in], as a module `name`; null where
  /// experts are not quantized.
  std::unique_ptr<Quantizer> make_quantizer(std::string name, const Parameter& weight);

  ExpertOptions options_;
};

using ExpertFactory = std::function<std::unique_ptr<BaseExpert>(const ExpertOptions&)>;

/// Makes `name` known to recipes (moe.expert); static objects of this type register a kind before main. There
/// are:
///   feed_forward  down(gelu(up x)), with biases
///   gated         down(silu(gate x) * up x), without (SwiGLU; Shazeer 2020, eq. 6)
struct ExpertRegistration {
  /// `mark` is for nothing but that a plug-in which registers something has it.
  ExpertRegistration(const std::string& name, ExpertFactory factory, const char* mark = conclave_plugin_abi);
};

/// At namespace scope: CONCLAVE_REGISTER_EXPERT("mine", MyExperts); for `struct MyExperts : BaseExpert`.
#define CONCLAVE_REGISTER_EXPERT(name, Experts)                                                     \
  static const ::conclave::ExpertRegistration CONCLAVE_UNIQUE_NAME(conclave_expert_) {              \
    name, [](const ::conclave::ExpertOptions& options) -> std::unique_ptr<::conclave::BaseExpert> { \
      return std::make_unique<Experts>(options);                                                    \
    }                                                                                               \
  }

/// Throws Error, listing the kinds there are, on an unknown name; `options.name` becomes `name`.
std::unique_ptr<BaseExpert> make_experts(const std::string& name, ExpertOptions options);
std::vector<std::string> expert_kinds();
/// Throws that Error.
void expect_expert_kind(const std::string& name);

}  // namespace conclave

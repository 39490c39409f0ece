// The experts of a layer, of one kind or of several. Experts are numbered kind by kind, and each rank holds a
// range of these numbers. A rank may hold no expert of some kind; it then owns that kind's parameters with
// zero rows, so that every rank has the same parameter names. Rows arrive sorted by expert, and so by kind.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "parallel/moe/expert.h"

namespace conclave {

/// How many experts of a layer are of one kind.
struct ExpertShare {
  std::string kind;
  Index count = 0;
};

/// Parses "gated" (all `experts` are of that kind) or "6 feed_forward, 2 gated" (numbers of each kind).
/// Throws Error if the text has another form or the numbers do not add up to `experts`.
std::vector<ExpertShare> expert_shares(const std::string& text, Index experts);

class MixedExperts : public Module {
 public:
  /// options.first and options.count give this rank's range among the layer's options.total experts. If there
  /// are several kinds, parameter names begin with the name of the kind.
  MixedExperts(const std::vector<ExpertShare>& shares, const ExpertOptions& options);

  /// Computes all experts on their rows. Throws Error with the kind's name if a kind's forward fails or
  /// returns another shape, dtype or layout than its rows'. In planning passes, takes as much memory as any
  /// routing needs.
  Tensor forward(Tape& tape, const ExpertInput& input);

  /// Floating point operations with one expert for each row; the mean over all experts if kinds differ.
  double flops(Extent& extent) const override;

  /// Whether any kind wants sequences, including kinds that only other ranks hold.
  bool wants_sequences() const;

  /// This rank's experts of one kind.
  struct Kind {
    std::unique_ptr<BaseExpert> experts;
    Index before = 0;  ///< experts of the kinds before this one
    Index total = 0, local = 0;
  };
  const std::vector<Kind>& kinds() const { return kinds_; }

  /// A parameter of this rank's experts, and the number in the layer of the expert that its first row belongs
  /// to.
  struct Rows {
    Parameter* parameter;
    Index first;
  };
  const std::vector<Rows>& parameters() const { return parameters_; }

 private:
  Tensor forward_from(Tape& tape, std::size_t kind, const ExpertInput& input);
  Arena::Bytes most_bytes(Tape& tape, const Tensor& rows);

  std::vector<Kind> kinds_;
  std::vector<Kind*> present_;  // kinds with experts on this rank
  std::vector<Rows> parameters_;
};

}  // namespace conclave

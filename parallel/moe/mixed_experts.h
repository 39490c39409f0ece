// A layer's experts, of one kind or of several. Experts are numbered kind by kind and divided over the ranks
// by number, so a rank holds some of each kind, or none: of those it has the parameters with no rows, and all
// ranks have the same parameters by name. Rows arrive sorted by expert, and so by kind.
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

/// "gated": all `experts`; "6 feed_forward, 2 gated": so many each. Throws Error where they are not `experts`
/// in all, or it reads otherwise.
std::vector<ExpertShare> expert_shares(const std::string& text, Index experts);

class MixedExperts : public Module {
 public:
  /// options.first and .count are this rank's experts of the options.total of the layer. Parameters have
  /// their kind's name before their own where there are several.
  MixedExperts(const std::vector<ExpertShare>& shares, const ExpertOptions& options);

  /// What the experts make of their rows; throws Error, with the kind's name, where one fails, or what it
  /// returns is not of its rows' shape. While memory is being planned, takes as much as it could ever need.
  Tensor forward(Tape& tape, const ExpertInput& input);

  /// With one expert for each row; where kinds differ, their mean.
  double flops(Extent& extent) const override;

  /// Whether any kind does, be it on other ranks.
  bool wants_sequences() const;

  /// Of each kind, this rank's share of it.
  struct Kind {
    std::unique_ptr<BaseExpert> experts;
    Index before = 0;  ///< experts of other kinds with lower numbers
    Index total = 0, local = 0;
  };
  const std::vector<Kind>& kinds() const { return kinds_; }

  /// A parameter of this rank's experts, and the number in the layer of the expert that its first row is of.
  struct Rows {
    Parameter* parameter;
    Index first;
  };
  const std::vector<Rows>& parameters() const { return parameters_; }

 private:
  Tensor forward_from(Tape& tape, std::size_t kind, const ExpertInput& input);
  Arena::Bytes most_bytes(Tape& tape, const Tensor& rows);

  std::vector<Kind> kinds_;
  std::vector<Kind*> present_;  // those with experts on this rank
  std::vector<Rows> parameters_;
};

}  // namespace conclave

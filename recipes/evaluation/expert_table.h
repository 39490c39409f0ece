// How often tokens of each class went to each expert of a layer, and how specialised the experts are by that.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace conclave {

/// In bits. I(E; C) = H(E) + H(C) - H(E, C): what the expert of a routed token tells about its text's class.
struct ExpertInformation {
  double mutual = 0;                ///< I(E; C)
  double experts = 0, classes = 0;  ///< H(E), H(C)
};

/// A view of counts[expert * classes + class], as Evaluation and a checkpoint's metadata have them.
class ExpertTable {
 public:
  ExpertTable(std::span<const Index> counts, std::size_t classes);

  std::size_t experts() const { return expert_total_.size(); }
  std::size_t classes() const { return class_total_.size(); }
  Index count(std::size_t expert, std::size_t c) const { return counts_[expert * classes() + c]; }
  std::span<const Index> expert_totals() const { return expert_total_; }
  std::span<const Index> class_totals() const { return class_total_; }

  /// The share of this expert, or of this class, in all routed tokens; 0 in an empty table.
  double expert_share(std::size_t expert) const { return share(expert_total_[expert]); }
  double class_share(std::size_t c) const { return share(class_total_[c]); }
  /// Tokens that the cell would hold if experts were independent of classes.
  double expected(std::size_t expert, std::size_t c) const;
  /// Count over expected: above 1 where the expert serves the class more often than by chance; 0 where
  /// nothing is expected.
  double lift(std::size_t expert, std::size_t c) const;
  ExpertInformation information() const;

 private:
  double share(Index count) const;

  std::span<const Index> counts_;
  std::vector<Index> expert_total_, class_total_;
  Index total_ = 0;
};

/// "expert  3  load 1.042  (13.0% of tokens)  serves above average: noun.food x2.31, noun.plant x1.80": up to
/// four classes with the highest lift above 1, among those with at least one expected token. Load is the
/// share times the number of experts. Long names are cut.
std::string describe_expert(const ExpertTable& table, std::size_t expert,
                            std::span<const std::string> class_names);

/// "rows of images among each expert's: 0% 12% 97%".
std::string describe_image_share(std::span<const double> experts);

/// At most `most` classes, those with the most tokens, and none without tokens. They are ordered by the
/// expert that has the largest part of them and, for each expert, by falling lift, so that the table shows
/// blocks.
std::vector<std::size_t> classes_by_expert(const ExpertTable& table, std::size_t most);

}  // namespace conclave

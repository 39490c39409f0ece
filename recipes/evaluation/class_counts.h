// Right and wrong guesses of an evaluation by class, and the macro F1 that follows from them.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "parallel/communicator.h"

namespace conclave {

/// The counts of one class.
struct ClassCount {
  Index right = 0, wrongly_guessed = 0, missed = 0;  ///< true positives, false positives, false negatives

  Index examples() const { return right + missed; }
  /// Share of the examples guessed to be of this class that are of it; 0 without any.
  double precision() const { return share_of(right + wrongly_guessed); }
  /// Share of this class's examples that were guessed to be of it; 0 without any.
  double recall() const { return share_of(examples()); }

 private:
  double share_of(Index all) const {
    return all > 0 ? static_cast<double>(right) / static_cast<double>(all) : 0;
  }
};

class ClassCounts {
 public:
  explicit ClassCounts(std::size_t classes) : counts_(classes) {}

  /// Counts an example of class `label` that was guessed to be of class `guess`, or of none.
  void add(std::size_t label, std::optional<std::size_t> guess);
  /// Collective: sums the counts over all ranks.
  void reduce(Communicator& world);
  /// As defined for Evaluation::macro_f1.
  double macro_f1() const;
  const std::vector<ClassCount>& by_class() const { return counts_; }

 private:
  std::vector<ClassCount> counts_;
};

}  // namespace conclave

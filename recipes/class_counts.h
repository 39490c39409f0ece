// Which classes an evaluation guessed of which examples, and what that makes of its macro F1.
#pragma once

#include <cstddef>
#include <vector>

#include "parallel/communicator.h"

namespace conclave {

/// Of one class.
struct ClassCount {
  Index right = 0, wrongly_guessed = 0, missed = 0;  ///< true positives, false positives, false negatives

  Index examples() const { return right + missed; }
  /// Of the examples that it was guessed of, those that are of it; 0 without any.
  double precision() const { return share_of(right + wrongly_guessed); }
  /// Of its examples, those of which it was guessed; 0 without any.
  double recall() const { return share_of(examples()); }

 private:
  double share_of(Index all) const {
    return all > 0 ? static_cast<double>(right) / static_cast<double>(all) : 0;
  }
};

class ClassCounts {
 public:
  explicit ClassCounts(std::size_t classes) : counts_(classes) {}

  /// An example of class `label` was taken for one of class `guess`.
  void add(std::size_t label, std::size_t guess);
  /// Collective: from here on, counts are over all ranks.
  void reduce(Communicator& world);
  /// As Evaluation::macro_f1.
  double macro_f1() const;
  const std::vector<ClassCount>& by_class() const { return counts_; }

 private:
  std::vector<ClassCount> counts_;
};

}  // namespace conclave

// Which classes an evaluation guessed of which examples, and what that makes of its macro F1.
#pragma once

#include <cstddef>
#include <vector>

#include "parallel/communicator.h"

namespace conclave {

class ClassCounts {
 public:
  explicit ClassCounts(std::size_t classes) : counts_(classes) {}

  /// An example of class `label` was taken for one of class `guess`.
  void add(std::size_t label, std::size_t guess);
  /// Collective: from here on, counts are over all ranks.
  void reduce(Communicator& world);
  /// As Evaluation::macro_f1.
  double macro_f1() const;

 private:
  struct Count {
    Index right = 0, wrongly_guessed = 0, missed = 0;  // true positives, false positives, false negatives
  };

  std::vector<Count> counts_;  // by class
};

}  // namespace conclave

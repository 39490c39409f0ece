#include "recipes/evaluation/class_counts.h"

namespace conclave {

void ClassCounts::add(std::size_t label, std::optional<std::size_t> guess) {
  if (guess == label) {
    ++counts_[label].right;
  } else {
    if (guess) ++counts_[*guess].wrongly_guessed;
    ++counts_[label].missed;
  }
}

void ClassCounts::reduce(Communicator& world) {
  static_assert(sizeof(ClassCount) == 3 * sizeof(Index));
  world.all_reduce(Tensor::borrow(counts_.data(), {std::ssize(counts_), 3}, DType::i64));
}

double ClassCounts::macro_f1() const {
  double sum = 0;
  Index classes = 0;
  for (const ClassCount& count : counts_) {
    const Index seen = 2 * count.right + count.wrongly_guessed + count.missed;
    if (seen == 0) continue;
    sum += 2 * static_cast<double>(count.right) / static_cast<double>(seen);
    ++classes;
  }
  return classes > 0 ? sum / static_cast<double>(classes) : 0;
}

}  // namespace conclave

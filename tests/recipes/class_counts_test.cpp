#include "recipes/evaluation/class_counts.h"

#include <catch2/catch.hpp>

using namespace conclave;

TEST_CASE("macro F1 counts the classes among labels or predictions, like scikit-learn", "[measures]") {
  // f1_score([0, 0, 1, 2], [0, 0, 1, 1], average="macro"); two of the five classes do not occur.
  ClassCounts counts(5);
  counts.add(0, 0);
  counts.add(0, 0);
  counts.add(1, 1);
  counts.add(2, 1);
  CHECK(counts.macro_f1() == Approx((1 + 2.0 / 3 + 0) / 3));
  counts.add(0, 4);  // class 4 counts: it was predicted, though never correctly
  CHECK(counts.macro_f1() == Approx((0.8 + 2.0 / 3 + 0 + 0) / 4));
  const ClassCount &first = counts.by_class()[0], &second = counts.by_class()[1],
                   &third = counts.by_class()[2];
  CHECK(first.examples() == 3);
  CHECK(first.precision() == 1);
  CHECK(first.recall() == Approx(2.0 / 3));
  CHECK(second.precision() == 0.5);
  CHECK(second.recall() == 1);
  CHECK(third.precision() == 0);
  CHECK(third.recall() == 0);
  counts.add(0, std::nullopt);  // guessed to be of no class: missed, and nothing else
  CHECK(first.missed == 2);
  CHECK(counts.macro_f1() == Approx((4 / 6.0 + 2.0 / 3 + 0 + 0) / 4));
}

TEST_CASE("macro F1 without examples is 0", "[measures]") { CHECK(ClassCounts(3).macro_f1() == 0); }

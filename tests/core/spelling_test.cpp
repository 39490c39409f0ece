#include "core/spelling.h"

#include <catch2/catch.hpp>

using namespace conclave;

TEST_CASE("the edit distance counts insertions, deletions and replacements", "[spelling]") {
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("abc", "") == 3);
  CHECK(edit_distance("top_k", "topk") == 1);
}

#include "recipes/evaluation/expert_usage.h"

#include <algorithm>
#include <catch2/catch.hpp>

using namespace conclave;

TEST_CASE("an expert's favourite text gives it the largest share, then is longer", "[experts]") {
  const Favourite half{.text = 0, .routed = 10, .tokens = 20}, whole{.text = 1, .routed = 5, .tokens = 5},
      longer{.text = 3, .routed = 6, .tokens = 6}, later{.text = 4, .routed = 6, .tokens = 6};
  std::vector<Favourite> texts{half, later, whole, longer};
  std::ranges::sort(texts, liked_better);
  CHECK(texts[0].text == 3);
  CHECK(texts[1].text == 4);
  CHECK(texts[2].text == 1);
  CHECK(texts[3].text == 0);
  CHECK(!liked_better(half, half));
}

TEST_CASE("a permutation has every number once and depends only on its seed", "[experts]") {
  const auto order = permutation(1000, 7);
  CHECK(order == permutation(1000, 7));
  CHECK(order != permutation(1000, 8));
  auto sorted = order;
  std::ranges::sort(sorted);
  CHECK(order != sorted);
  for (std::size_t i = 0; i < sorted.size(); ++i) CHECK(sorted[i] == i);
  CHECK(permutation(0, 7).empty());
}

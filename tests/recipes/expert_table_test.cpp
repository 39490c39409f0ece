#include "recipes/evaluation/expert_table.h"

#include <catch2/catch.hpp>

#include "core/error.h"

using namespace conclave;

TEST_CASE("experts that are independent of classes have no mutual information", "[experts]") {
  const std::vector<Index> counts{10, 20, 30, 20, 40, 60};  // 2 experts, 3 classes; proportional rows
  const ExpertTable table(counts, 3);
  const ExpertInformation bits = table.information();
  CHECK(bits.mutual == Approx(0).margin(1e-12));
  CHECK(bits.experts == Approx(0.9182958340544896));  // entropy of (1/3, 2/3)
  CHECK(bits.classes == Approx(1.4591479170272448));  // entropy of (1/6, 1/3, 1/2)
  for (std::size_t e = 0; e < 2; ++e)
    for (std::size_t c = 0; c < 3; ++c) CHECK(table.lift(e, c) == Approx(1));
}

TEST_CASE("eight experts with one class each have three bits of information", "[experts]") {
  std::vector<Index> counts(64);
  for (std::size_t i = 0; i < 8; ++i) counts[i * 8 + i] = 5;
  const ExpertTable table(counts, 8);
  const ExpertInformation bits = table.information();
  CHECK(bits.mutual == Approx(3));
  CHECK(bits.experts == Approx(3));
  CHECK(bits.classes == Approx(3));
  CHECK(table.lift(2, 2) == Approx(8));
  CHECK(table.lift(2, 3) == 0);
}

TEST_CASE("the mutual information of a mixed table agrees with the definition", "[experts]") {
  const std::vector<Index> counts{3, 1, 1, 3};  // p = 3/8, 1/8: I = 2 - H(3/8, 1/8, 1/8, 3/8)
  CHECK(ExpertTable(counts, 2).information().mutual == Approx(0.18872187554086717));
}

TEST_CASE("an empty table has no information and no shares", "[experts]") {
  const std::vector<Index> none, zeros(6);
  CHECK(ExpertTable(none, 0).experts() == 0);
  CHECK(ExpertTable(none, 3).information().mutual == 0);
  const ExpertTable table(zeros, 3);
  const ExpertInformation bits = table.information();
  CHECK((bits.mutual == 0 && bits.experts == 0 && bits.classes == 0));
  CHECK(table.lift(1, 2) == 0);
  CHECK(table.expert_share(1) == 0);
}

TEST_CASE("counts with an incomplete row are refused", "[experts]") {
  const std::vector<Index> counts(5);
  CHECK_THROWS_AS(ExpertTable(counts, 3), Error);
}

TEST_CASE("an expert's description has its load and its classes above chance", "[experts]") {
  const std::vector<Index> counts{30, 10, 10, 30};
  const std::vector<std::string> names{"food", "plant"};
  CHECK(describe_expert(ExpertTable(counts, 2), 1, names) ==
        "expert  1  load 1.000  (50.0% of tokens)  serves above average: plant x1.50");
  const std::vector<Index> even{10, 10, 10, 10};
  CHECK(describe_expert(ExpertTable(even, 2), 0, names) ==
        "expert  0  load 1.000  (50.0% of tokens)  serves above average: none");
}

TEST_CASE("the share of image rows of each expert is printed in percent", "[experts]") {
  CHECK(describe_image_share(std::vector{0.0, 0.124, 1.0}) ==
        "rows of images among each expert's: 0% 12% 100%");
}

TEST_CASE("classes are ordered by the expert with the largest share", "[experts]") {
  const std::vector<Index> counts{1, 9, 0, 30, 5,   // expert 0
                                  8, 1, 0, 10, 5};  // expert 1
  const ExpertTable table(counts, 5);
  CHECK(classes_by_expert(table, 5) == std::vector<std::size_t>{1, 3, 4, 0});  // class 2 has no tokens
  CHECK(classes_by_expert(table, 2) == std::vector<std::size_t>{1, 3});
}

#include "core/text_line.h"

#include <catch2/catch.hpp>

using namespace conclave;

TEST_CASE("a text that fits stays complete, on one line", "[text]") {
  CHECK(one_line("a large animal", 14) == "a large animal");
  CHECK(one_line("  a\n\tlarge \x01 animal\r\n", 14) == "a large animal");
  CHECK(one_line("", 10).empty());
}

TEST_CASE("a text that does not fit is cut after a word", "[text]") {
  CHECK(one_line("a large animal", 13) == "a large...");
  CHECK(one_line("a large animal", 10) == "a large...");
  CHECK(one_line("a large animal", 9) == "a...");
  CHECK(one_line("unbelievably long", 10) == "unbelie...");
  CHECK(one_line("unbelievably long", 3) == "...");
  CHECK(one_line("unbelievably long", 0).empty());
}

TEST_CASE("columns are counted in code points, which are not divided", "[text]") {
  CHECK(one_line("большое животное", 16) == "большое животное");
  CHECK(one_line("большое животное", 15) == "большое...");
  CHECK(one_line("большое", 6) == "бол...");
}

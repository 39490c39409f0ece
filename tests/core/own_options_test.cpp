#include "core/own_options.h"

#include <catch2/catch.hpp>

using namespace conclave;
using Catch::Matchers::Contains;

TEST_CASE("own options have the values that were given, or others", "[own_options]") {
  const OwnOptions own("moe.options", {"rate = 2.5e-3", "name=a=b c ", "on=true", "off=false", "empty="});
  CHECK(own.number("rate", 1) == 2.5e-3);
  CHECK(own.number("other", 7) == 7);
  CHECK(own.text("name", "") == "a=b c");
  CHECK(own.text("empty", "x").empty());
  CHECK(own.text("other", "x") == "x");
  CHECK(own.flag("on", false));
  CHECK_FALSE(own.flag("off", true));
  CHECK(own.flag("other", true));
  own.expect_all_read();
  CHECK_THROWS_WITH(own.number("name", 0), Contains("moe.options: name wants a number, not \"a=b c\""));
  CHECK_THROWS_WITH(own.number("empty", 0), Contains("wants a number"));
  CHECK_THROWS_WITH(own.flag("rate", false), Contains("rate wants true or false"));
}

TEST_CASE("an own option that neither an object nor its copies are asked for is refused", "[own_options]") {
  const OwnOptions own("strategy.options", {"rate=1", "size=2"});
  CHECK_THROWS_WITH(own.expect_all_read(),
                    Contains("strategy.options: nothing reads rate; only kinds of plug-ins"));
  const OwnOptions copy = own;
  copy.number("rate", 0);
  CHECK_THROWS_WITH(own.expect_all_read(), Contains("nothing reads size; there are rate"));
  copy.number("size", 0);
  own.expect_all_read();
  OwnOptions().expect_all_read();
}

TEST_CASE("own options are NAME=VALUE, each name once", "[own_options]") {
  CHECK(OwnOptions::mistake_in({}).empty());
  CHECK(OwnOptions::mistake_in({"a=1", "b="}).empty());
  CHECK(OwnOptions::mistake_in({"a"}) == "\"a\" is not NAME=VALUE");
  CHECK(OwnOptions::mistake_in({" =1"}) == "\" =1\" is not NAME=VALUE");
  CHECK(OwnOptions::mistake_in({"a=1", "a =2"}) == "a is given twice");
  CHECK_THROWS_WITH(OwnOptions("moe.options", {"a"}), Contains("moe.options: \"a\" is not"));
}

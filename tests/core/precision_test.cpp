#include "core/precision.h"

#include <catch2/catch.hpp>

#include "core/error.h"

namespace conclave {
namespace {

TEST_CASE("each precision is found by its name") {
  for (const Precision each : {Precision::f32, Precision::tf32, Precision::bf16})
    CHECK(precision_from(name_of(each)) == each);
  CHECK_THROWS_WITH(precision_from("fp16"), "no precision is named 'fp16'; there are f32, tf32, bf16");
}

TEST_CASE("products are computed in f32 until another precision is set") {
  CHECK(precision() == Precision::f32);
  set_precision(Precision::bf16);
  CHECK(precision() == Precision::bf16);
  set_precision(Precision::f32);
}

}  // namespace
}  // namespace conclave

#include "recipes/training/step_trace.h"

#include <catch2/catch.hpp>
#include <vector>

using namespace conclave;

TEST_CASE("a span's own time is without that of the spans inside it", "[step_trace]") {
  // In order of their ends, as a timeline has them. Two begin together; one is twice at the same place.
  const std::vector<Timeline::Span> spans{
      {"linear", "", "forward", 1, 3}, {"wait", "", "communication", 4, 5}, {"linear", "", "forward", 3, 6},
      {"forward", "", "step", 1, 6},   {"linear", "", "backward", 6, 8},    {"step", "", "step", 0, 10}};
  const auto times = times_of(spans);
  REQUIRE(times.size() == 5);
  const auto check = [&](const char* name, const char* kind, double seconds, std::int64_t count) {
    CAPTURE(name, kind);
    const auto time =
        std::ranges::find_if(times, [&](const TimeOf& t) { return t.name == name && t.kind == kind; });
    REQUIRE(time != times.end());
    CHECK(time->seconds == seconds);
    CHECK(time->count == count);
  };
  check("linear", "forward", 4, 2);
  check("linear", "backward", 2, 1);
  check("wait", "communication", 1, 1);
  check("forward", "step", 0, 1);
  check("step", "step", 3, 1);
  CHECK(times.front().name == "linear");
  CHECK(times_of({}).empty());
}

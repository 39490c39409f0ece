#include "core/timeline.h"

#include <catch2/catch.hpp>
#include <string>
#include <thread>

#include "core/error.h"

using namespace conclave;

TEST_CASE("a timeline has its thread's spans, those inside another within it", "[timeline]") {
  { const Timeline::Scope nobody_records("before", "step"); }
  Timeline timeline(Device::cpu, 4);
  CHECK(Timeline::recording() == &timeline);
  CHECK_THROWS_WITH(Timeline(Device::cpu), Catch::Matchers::Contains("records one already"));
  {
    const Timeline::Scope outer("outer", "step");
    timeline.restart();
    { const Timeline::Scope inner("inner", "communication"); }
    timeline.follow("first", "forward", "layers.0");
    timeline.follow("second", "forward", "layers.1");
  }
  { const Timeline::Scope no_room("later", "step"); }
  std::thread([] {
    CHECK(Timeline::recording() == nullptr);
    const Timeline::Scope of_another_thread("elsewhere", "step");
  }).join();

  const auto spans = timeline.spans();
  REQUIRE(spans.size() == 4);
  CHECK(timeline.lost() == 1);
  const auto &inner = spans[0], &first = spans[1], &second = spans[2], &outer = spans[3];
  CHECK(inner.name == std::string("inner"));
  CHECK(second.name == std::string("second"));
  CHECK(second.where == std::string("layers.1"));
  CHECK(second.kind == std::string("forward"));
  CHECK(outer.name == std::string("outer"));
  CHECK(0 <= outer.begin);
  CHECK(outer.begin <= first.begin);
  CHECK(first.begin <= inner.begin);  // follow() begins where restart() was
  CHECK(inner.end <= first.end);
  CHECK(first.end <= second.begin);
  CHECK(second.begin <= second.end);
  CHECK(second.end <= outer.end);
}

TEST_CASE("after a timeline, a thread can have another", "[timeline]") {
  { Timeline timeline(Device::cpu); }
  CHECK(Timeline::recording() == nullptr);
  CHECK(Timeline(Device::cpu).spans().empty());
}

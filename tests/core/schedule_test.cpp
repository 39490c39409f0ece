#include "core/schedule.h"

#include <catch2/catch.hpp>
#include <cmath>

namespace conclave {
namespace {

TEST_CASE("a schedule warms up linearly from zero to its peak", "[schedule]") {
  for (const auto kind : {Schedule::Kind::constant, Schedule::Kind::linear, Schedule::Kind::cosine}) {
    const Schedule schedule{.kind = kind, .peak = 2, .final = 0.5, .warmup_steps = 10, .total_steps = 110};
    CHECK(schedule.at(0) == 0);
    CHECK(schedule.at(1) == Approx(0.2));
    CHECK(schedule.at(5) == Approx(1));
    CHECK(schedule.at(10) == Approx(2));
  }
}

TEST_CASE("a schedule goes from its peak to its final rate and stays there", "[schedule]") {
  Schedule schedule{
      .kind = Schedule::Kind::linear, .peak = 2, .final = 0.5, .warmup_steps = 10, .total_steps = 110};
  CHECK(schedule.at(35) == Approx(2 - 1.5 * 25 / 101));
  CHECK(schedule.at(110) == Approx(0.5 + 1.5 / 101));
  CHECK(schedule.at(111) == Approx(0.5));
  CHECK(schedule.at(500) == Approx(0.5));
  schedule.kind = Schedule::Kind::cosine;
  schedule.total_steps = 109;
  CHECK(schedule.at(35) == Approx(0.5 + 1.5 * 0.5 * (1 + std::sqrt(0.5))));  // cos(pi / 4)
  CHECK(schedule.at(60) == Approx(1.25));
  CHECK(schedule.at(110) == Approx(0.5));
  CHECK(schedule.at(500) == Approx(0.5));
  schedule.kind = Schedule::Kind::constant;
  CHECK(schedule.at(11) == 2);
  CHECK(schedule.at(500) == 2);
}

TEST_CASE("a schedule without warm-up begins at its peak and never has a rate of zero", "[schedule]") {
  for (const auto kind : {Schedule::Kind::linear, Schedule::Kind::cosine})
    for (const std::int64_t total : {1, 2, 4, 1000}) {
      const Schedule schedule{.kind = kind, .peak = 1, .warmup_steps = 0, .total_steps = total};
      CHECK(schedule.at(0) == 1);
      CHECK(schedule.at(1) == 1);
      CHECK(schedule.at(total) > 0);
      CHECK(schedule.at(total + 1) == Approx(0).margin(1e-15));
    }
  const Schedule cold{.kind = Schedule::Kind::cosine, .peak = 1, .warmup_steps = 0, .total_steps = 4};
  CHECK(cold.at(2) == Approx(0.5 * (1 + std::cos(M_PI / 4))));
}

TEST_CASE("a schedule that is all warm-up ends at its peak", "[schedule]") {
  const Schedule warm{.kind = Schedule::Kind::linear, .peak = 1, .warmup_steps = 4, .total_steps = 4};
  CHECK(warm.at(4) == 1);
  CHECK(warm.at(5) == 0);
}

TEST_CASE("schedules are found by name", "[schedule]") {
  CHECK(schedule_from("cosine") == Schedule::Kind::cosine);
  CHECK(schedule_from("linear") == Schedule::Kind::linear);
  CHECK(schedule_from("constant") == Schedule::Kind::constant);
  CHECK_THROWS_WITH(schedule_from("step"), "no schedule is named 'step'; there are constant, linear, cosine");
}

}  // namespace
}  // namespace conclave

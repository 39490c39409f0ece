#include "federated/failed_attempt.h"

#include <catch2/catch.hpp>

#include "tests/federated/scripted_random.h"

namespace conclave {
namespace {

using Phase = AttemptPhase;

const SiteNames kFour{"a", "b", "c", "z"};

AfterFailure fail_at(Phase phase, const SiteNames& absent, Absences absences = {}, std::size_t least = 3,
                     const SiteNames& sites = kFour) {
  return after_failure({.phase = phase, .sites = sites, .absent = absent}, std::move(absences), least);
}

SiteNames left_out(const Absences& absences, std::size_t least, std::uint64_t random = 0) {
  ScriptedRandom source({}, random);
  RandomBits bits(source);
  return left_out_as_absent(kFour, absences, least, bits);
}

TEST_CASE("after_failure: absences count from the phase on in which updates were sent") {
  for (const Phase phase :
       {Phase::advertise, Phase::share, Phase::mask, Phase::consent, Phase::unmask, Phase::done}) {
    const bool counts = phase >= Phase::mask;
    const AfterFailure after = fail_at(phase, {"b", "z"}, {{"z", 1}});
    CHECK(after.absences == (counts ? Absences{{"b", 1}, {"z", 2}} : Absences{{"z", 1}}));
    CHECK((!after.wait && !after.outage && after.needed.empty()));
    // The next attempt is without "z". If it is needed, the next attempt waits.
    const AfterFailure needed = fail_at(phase, {"b", "z"}, {{"z", 1}}, 4);
    CHECK(needed.wait == counts);
    CHECK(needed.needed == (counts ? SiteNames{"z"} : SiteNames{}));
  }
}

TEST_CASE("after_failure: a dispute, an outage or the coordinator's own failure blames nobody") {
  const Absences before{{"z", 2}};
  const AfterFailure disputed =
      after_failure({.phase = Phase::mask, .sites = kFour, .absent = {"a"}, .disputed = true}, before, 4);
  CHECK((disputed.absences == before && !disputed.wait));
  const AfterFailure outage = fail_at(Phase::consent, {"a", "b", "c"}, before);
  CHECK((outage.absences == before && outage.wait && outage.outage && outage.needed.empty()));
  const AfterFailure own = fail_at(Phase::mask, {}, before);
  CHECK((own.absences == before && own.wait && !own.outage));
}

TEST_CASE("after_failure: if a member is absent, sites that were left out get nearer to seats") {
  const AfterFailure after =
      fail_at(Phase::consent, {"a"}, {{"a", 1}, {"b", 1}, {"z", 3}}, 2, {"a", "b", "c"});
  CHECK(after.absences == Absences{{"a", 2}, {"b", 1}, {"z", 2}});
}

TEST_CASE("left_out_as_absent: the most absences first, of equals one at random") {
  const Absences absences{{"a", 2}, {"b", 1}, {"z", 3}};
  CHECK(left_out(absences, 4).empty());
  CHECK(left_out(absences, 3) == SiteNames{"z"});
  CHECK(left_out(absences, 2) == SiteNames{"a", "z"});
  CHECK(left_out(absences, 1) == SiteNames{"a", "z"});  // "b" was absent once
  CHECK(fail_at(Phase::mask, {"z"}, {{"a", 2}, {"z", 2}}).needed == SiteNames{"a"});
  const Absences equals{{"a", 2}, {"z", 2}};
  CHECK(left_out(equals, 3, 0) != left_out(equals, 3, ~std::uint64_t{0}));
  CHECK(fail_at(Phase::mask, {"z"}, {{"a", 2}, {"z", 1}}).needed == SiteNames{"a", "z"});  // one of them
}

}  // namespace
}  // namespace conclave

#include "federated/round_record.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <iterator>
#include <map>
#include <set>

#include "core/random.h"
#include "tests/data/temporary_directory.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;
using Names = std::set<char>;

constexpr std::int64_t kFirst = 1, kSecond = 2;

// Sites with a record each, and a coordinator that lies to them. 'c' colludes and has no rules.
struct RecordedSites {
  bool joins(char site, std::int64_t attempt) {
    if (site == 'c') return true;
    try {  // the record is opened anew every time, as after a restart
      std::filesystem::create_directories(at(site));
      RoundRecord(at(site), 0).note_sent(attempt);
    } catch (const Error&) {
      return false;
    }
    return true;
  }
  /// Those of `sites` that send into the attempt.
  void send(std::int64_t attempt, const Names& sites) {
    for (const char site : sites)
      if (joins(site, attempt)) sums[attempt].insert(site);
  }
  /// Of the attempt's sites that are asked, those whose records allow it unmask it.
  void unmask(std::int64_t attempt, const Names& asked) {
    for (const char site : asked) {
      if (!sums[attempt].contains(site)) continue;
      if (site != 'c') {
        try {
          RoundRecord(at(site), 0).note_unmasked(attempt);
        } catch (const Error&) {
          continue;
        }
      }
      helpers[attempt].insert(site);
    }
  }
  std::filesystem::path at(char site) const { return folder.path() + "/" + site; }

  TemporaryDirectory folder;
  std::map<std::int64_t, Names> sums, helpers;
};

// Honest sites whose update is in one of the two sums only.
std::size_t honest_in_difference(Names first, const Names& second) {
  Names both;
  std::ranges::set_symmetric_difference(first, second, std::inserter(both, both.end()));
  return both.size() - both.count('c');
}

TEST_CASE("RoundRecord: a round has one sum, and numbers of attempts rise, also after a restart") {
  const TemporaryDirectory folder;
  {
    RoundRecord record(folder.path(), 4);
    record.check_may_join(7);
    record.check_may_join(7);  // nothing was sent
    record.note_sent(7);
    CHECK_THROWS_WITH(record.check_may_join(7), Contains("round 5") && Contains("in attempt 7") &&
                                                    Contains("sent it into attempt 7; expected a higher"));
    CHECK_THROWS_AS(record.note_sent(6), Error);
  }
  {
    RoundRecord record(folder.path(), 4);
    CHECK_THROWS_AS(record.check_may_join(7), Error);
    record.note_sent(9);
    CHECK_THROWS_AS(record.note_unmasked(7), Error);  // it has left that attempt
    record.note_unmasked(9);
    CHECK_THROWS_WITH(record.check_may_join(10),
                      Contains("asks for its sum once more") && Contains("remove"));
  }
  CHECK_THROWS_AS(RoundRecord(folder.path(), 4).note_sent(10), Error);
  CHECK_NOTHROW(RoundRecord(folder.path(), 5).note_sent(1));  // rounds are apart
}

// Seven sites, of which four must stay and one colludes. With the sums over 1, 2, 3, c, 4, 5 and 4, 5, 6, c,
// 2, 3, the coordinator would know the difference of 1 and 6.
TEST_CASE("RoundRecord: two attempts among overlapping sites expose no update") {
  RecordedSites sites;
  const Names first{'1', '2', '3', 'c', '4', '5'}, second{'4', '5', '6', 'c', '2', '3'};
  SECTION("one after the other") {
    sites.send(kFirst, first);
    sites.unmask(kFirst, {'1', '2', '3', 'c'});
    sites.send(kSecond, second);
    CHECK(sites.sums[kSecond] == Names{'4', '5', '6', 'c'});
  }
  SECTION("the one with the higher number first") {
    sites.send(kSecond, second);
    sites.unmask(kSecond, {'4', '5', '6', 'c'});
    sites.send(kFirst, first);
    CHECK(sites.sums[kFirst] == Names{'1', 'c'});  // too few
  }
  SECTION("both before anything is unmasked") {
    sites.send(kFirst, first);
    sites.send(kSecond, second);
    sites.unmask(kFirst, first);
    sites.unmask(kSecond, second);
    CHECK(sites.helpers[kFirst] == Names{'1', 'c'});  // the others have left it
    return;
  }
  CHECK(honest_in_difference(sites.sums[kFirst], sites.sums[kSecond]) >= 3);
}

TEST_CASE("RoundRecord: sites that unmasked a sum are in no other sum of the round with a higher number") {
  const RandomStream random{.seed = 5};
  std::uint64_t drawn = 0;
  const auto some = [&] {
    Names names{'c'};
    for (char site = '1'; site <= '6'; ++site)
      if (random.below(4, drawn++) > 0) names.insert(site);
    return names;
  };
  std::size_t pairs = 0;
  for (int trial = 0; trial < 5; ++trial) {
    RecordedSites sites;
    for (int step = 0; step < 8; ++step) {
      const auto attempt = static_cast<std::int64_t>(1 + random.below(4, drawn++));
      if (random.below(2, drawn++) == 0)
        sites.send(attempt, some());
      else
        sites.unmask(attempt, some());
    }
    for (const auto& [attempt, helpers] : sites.helpers)
      for (const auto& [later, sum] : sites.sums) {
        if (later <= attempt) continue;
        for (const char site : helpers) CHECK((site == 'c' || !sum.contains(site)));
        ++pairs;
      }
  }
  CHECK(pairs > 5);
}

}  // namespace
}  // namespace conclave

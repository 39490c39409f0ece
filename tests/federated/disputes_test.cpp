#include "federated/disputes.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "core/random.h"
#include "tests/federated/scripted_random.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;
using Names = Disputes::Names;
using Pairs = std::map<std::uint32_t, std::set<std::uint32_t>>;

void disagree(Pairs& pairs, std::uint32_t one, std::uint32_t other) {
  pairs[one].insert(other);
  pairs[other].insert(one);
}

// The same words in every run.
struct StreamOfWords : RandomSource {
  void fill(std::span<std::byte> out) override {
    for (std::byte& one : out) one = static_cast<std::byte>(random.below(256, drawn++));
  }
  const RandomStream random{.seed = 12};
  std::uint64_t drawn = 0;
};

struct Disputing {
  std::vector<std::string> said;
  ScriptedRandom random{{}};
  Disputes disputes{[this](const std::string& text) { said.push_back(text); }, random};
};

TEST_CASE_METHOD(Disputing, "Disputes: both sites of a pair are left out, which is said once") {
  const std::vector<std::string> sites{"a", "b", "c", "d", "e"};
  const Names ready(sites.begin(), sites.end());
  CHECK(disputes.members(0, ready, 3) == ready);
  CHECK(said.empty());
  disputes.note(0, sites, {}, {{1, {3}}, {3, {1}}}, 1);
  for (int attempt = 0; attempt < 3; ++attempt) CHECK(disputes.members(0, ready, 3) == Names{"a", "c", "e"});
  REQUIRE(said.size() == 1);
  CHECK_THAT(said[0], Contains("warning: round 1: left out") && Contains("d because of b") &&
                          Contains("b because of d") && Contains("at least one lies"));
  // If one of the two is not there, the other may take part.
  CHECK(disputes.members(0, {"a", "b", "c"}, 3) == Names{"a", "b", "c"});
  // Where all but one must stay, one of the two does.
  const Names four = disputes.members(1, ready, 4);
  CHECK(four.size() == 4);
  CHECK(four.count("b") + four.count("d") == 1);
}

// If only the site with more partners were left out, that would be "b", for good.
TEST_CASE_METHOD(Disputing, "Disputes: two liars do not exclude an honest site at no cost") {
  const std::vector<std::string> sites{"a", "b", "c", "d", "e", "f"};
  disputes.note(0, sites, {}, {{1, {3, 4}}, {3, {1}}, {4, {1}}}, 2);
  const Names members = disputes.members(0, {sites.begin(), sites.end()}, 4);
  CHECK(members.size() == 4);
  CHECK(members.count("d") + members.count("e") == 1);
  CHECK(disputes.liars().empty());
}

TEST_CASE_METHOD(Disputing, "Disputes: partners of several attempts are compared with the largest bound") {
  const std::vector<std::string> all{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"},
      few{"a", "b", "c", "d"};
  disputes.note(0, all, {}, {{0, {8}}, {8, {0}}}, 3);
  disputes.note(0, few, {}, {{0, {2}}, {2, {0}}}, 1);
  CHECK(disputes.liars().empty());
  disputes.note(0, all, {}, {{0, {4, 5}}, {4, {0}}, {5, {0}}}, 3);
  CHECK(disputes.liars() == Names{"a"});
  CHECK_THAT(said.back(), Contains("warning: round 1: a sent false shares"));
}

TEST_CASE_METHOD(Disputing, "Disputes: the site that was absent most often is left out, and said to be") {
  const Names all{"a", "b", "c", "z"};
  const auto absent = [&](const Names& sites) {
    disputes.note_failure({.phase = AttemptPhase::consent, .sites = all, .absent = sites}, 3);
  };
  absent({"a", "z"});
  CHECK(disputes.members(0, all, 3) == all);
  absent({"a", "z"});
  absent({"z"});
  CHECK(disputes.members(0, all, 3) == Names{"a", "b", "c"});
  CHECK_THAT(said.back(),
             Catch::EndsWith("round 1: left out of sums: z because attempts failed when it was gone"));
  CHECK(disputes.members(0, all, 4) == all);
  disputes.note_present({"z"});
  CHECK(disputes.members(0, all, 3) == Names{"b", "c", "z"});
}

// Liars of every kind: each attempt, some of those that take part lie to or about some others, or cheat.
TEST_CASE("Disputes: no honest site is named, and liars that lie lose their seats") {
  StreamOfWords words;
  const RandomStream random{.seed = 11};
  std::uint64_t drawn = 0;
  const auto below = [&](std::size_t bound) { return random.below(bound, drawn++); };
  int with_seats_lost = 0, named = 0;
  for (std::size_t trial = 0; trial < 10 * 14; ++trial) {
    const std::size_t n = 3 + trial % 14;
    for (std::size_t least = std::max<std::size_t>((2 * n + 2) / 3, 3); least <= n; ++least) {
      const std::size_t colluding = 2 * ((2 * n + 2) / 3) - n - 1;
      const auto most_of = [&](std::size_t sites) {
        return std::max<std::size_t>(std::min(colluding, 2 * std::min(least, sites) - sites - 1), 1);
      };
      const std::size_t k = below(most_of(n) + 1);
      CAPTURE(n, least, k);
      Disputes disputes([](const auto&) {}, words);
      std::vector<std::string> all;
      for (std::size_t i = 0; i < n; ++i) all.push_back(std::string(1, static_cast<char>('a' + i)));
      const auto lies = [&](const std::string& site) { return site[0] < 'a' + static_cast<int>(k); };
      std::size_t seats = k;  // of liars
      for (int attempt = 0; attempt < 20; ++attempt) {
        const Names members = disputes.members(0, {all.begin(), all.end()}, least);
        const auto liars = static_cast<std::size_t>(std::ranges::count_if(members, lies));
        const std::size_t honest_gone = n - k - (members.size() - liars);
        const bool spare = n >= 2 * k + least;  // both of each pair can be left out
        if (spare) {
          CHECK(members.size() >= least);
          CHECK(honest_gone <= k - liars);
          CHECK(liars <= seats);
          if (liars < seats) ++with_seats_lost;
        }
        if (members.size() < least || liars == 0) break;
        const std::vector<std::string> sites(members.begin(), members.end());
        Pairs pairs;
        std::set<std::uint32_t> cheaters;
        const auto liar = static_cast<std::uint32_t>(below(liars));  // liars come first
        for (std::uint32_t site = 0; site < liars; ++site) {
          if (site != liar && below(2) == 0) continue;  // one does in any case
          const std::size_t kind = below(4);
          if (kind == 0) cheaters.insert(site);
          const auto victim = static_cast<std::uint32_t>(below(sites.size()));
          for (std::uint32_t other = 0; other < sites.size(); ++other)
            if (other != site && (kind == 1 || (kind > 1 && other == victim) || (kind == 3 && below(2) == 0)))
              disagree(pairs, site, other);
          if (kind == 2 && victim == site)
            disagree(pairs, site, static_cast<std::uint32_t>(sites.size() - 1));
        }
        seats = liars;
        const bool shown = !pairs.empty() || !cheaters.empty();
        disputes.note(0, sites, cheaters, pairs, most_of(sites.size()));
        for (const std::string& site : disputes.liars()) CHECK(lies(site));
        if (shown && spare) {
          const Names next = disputes.members(0, {all.begin(), all.end()}, least);
          CHECK(static_cast<std::size_t>(std::ranges::count_if(next, lies)) < seats);
          for (const auto& [one, others] : pairs)
            for (const std::uint32_t other : others)
              CHECK_FALSE((next.contains(sites[one]) && next.contains(sites[other])));
        }
      }
      named += static_cast<int>(disputes.liars().size());
    }
  }
  CHECK(with_seats_lost > 10);
  CHECK(named > 10);
}

}  // namespace
}  // namespace conclave

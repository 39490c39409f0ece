// The result of a round: the exact sum, whichever sites drop out and when; no sum if anyone cheats.
#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <set>

#include "core/random.h"
#include "tests/federated/secure_aggregation_round.h"

using namespace conclave;
using namespace conclave::secure_aggregation;

namespace {

using Vectors = std::vector<std::vector<std::int64_t>>;

// Random values, as large as they can be without an overflow of the sum.
Vectors vectors_for(const Agreement& agreement, std::uint64_t seed) {
  const RandomStream random{.seed = seed};
  const std::int64_t most = agreement.ring.most_each(agreement.sites.size());
  Vectors vectors(agreement.sites.size(), std::vector<std::int64_t>(agreement.length));
  std::uint64_t i = 0;
  for (auto& vector : vectors)
    for (auto& value : vector)
      value = static_cast<std::int64_t>(random.below(2 * static_cast<std::uint64_t>(most) + 1, i++)) - most;
  return vectors;
}

std::vector<std::int64_t> plain_sum(const Vectors& vectors, const std::vector<std::uint32_t>& of) {
  std::vector<std::int64_t> sum(vectors[0].size());
  for (const std::uint32_t site : of)
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += vectors[site][i];
  return sum;
}

}  // namespace

TEST_CASE("secure aggregation: the sum of all sites is exact in every ring") {
  const auto width = GENERATE(2u, 3u, 4u, 5u, 6u, 7u, 8u);
  const Agreement agreement = agreement_among(5, 2 * kGroupWords + kBlockWords + 77, width);
  const Vectors vectors = vectors_for(agreement, width);
  TestRound round(agreement);
  CHECK(round.sum(vectors) == plain_sum(vectors, {0, 1, 2, 3, 4}));
}

TEST_CASE("secure aggregation: the sum has exactly the sites whose vectors arrived") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    const RandomStream random{.seed = seed, .tensor = 1};
    const std::size_t n = 3 + random.below(14, 0);
    const Agreement agreement = agreement_among(n, 1 + random.below(100, 1));
    const Vectors vectors = vectors_for(agreement, seed);
    TestRound round(agreement);
    std::vector<std::uint32_t> order(n), counted;
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t i = n; i > 1; --i) std::swap(order[i - 1], order[random.below(i, 10 + i)]);
    for (std::size_t i = 0; i < n - agreement.least; ++i)
      round.leaves[order[i]] = static_cast<Leaves>(random.below(6, 100 + i));
    for (std::uint32_t site = 0; site < n; ++site)
      if (!round.leaves.contains(site) || round.leaves[site] == Leaves::never ||
          round.leaves[site] >= Leaves::after_vector)
        counted.push_back(site);
    CHECK(round.sum(vectors) == plain_sum(vectors, counted));
  }
}

TEST_CASE("secure aggregation: with too many dropouts there is no sum") {
  const auto when = GENERATE(Leaves::before_advertising, Leaves::after_advertising, Leaves::after_sharing,
                             Leaves::after_vector, Leaves::after_consent);
  TestRound round(agreement_among(6, 10));
  for (const std::uint32_t site : {0, 2, 5}) round.leaves[site] = when;
  CHECK_THROWS_WITH(round.sum(vectors_for(round.agreement, 1)), Catch::Contains("3 sites are left, and 4"));
}

TEST_CASE("secure aggregation: the sum is exact among many sites with few neighbours") {
  Agreement agreement = agreement_among(kMostSharingWithAll + 2, 50);
  agreement.least = 111;
  agreement.colluding = 4;
  TestRound round(agreement);
  const Vectors vectors = vectors_for(agreement, 3);
  std::vector<std::uint32_t> counted;
  for (std::uint32_t site = 0; site < agreement.sites.size(); ++site)
    if (site % 10 == 3)
      round.leaves[site] = site % 20 == 3 ? Leaves::after_sharing : Leaves::after_advertising;
    else
      counted.push_back(site);
  CHECK(round.sum(vectors) == plain_sum(vectors, counted));
}

TEST_CASE("secure aggregation: a site refuses a roster that its sites did not sign") {
  TestRound round(agreement_among(4, 3));
  round.advertise();
  Roster roster = round.coordinator.roster();
  SECTION("another key in place of a site's") {
    SystemRandom random;
    roster.sites[2].masking_key = public_key(Secret(random));
    CHECK_THROWS_WITH(round.sites[0].share(roster), Catch::Contains("'site 2' in the roster are not signed"));
    CHECK_THROWS_WITH(round.sites[2].share(roster), Catch::Contains("does not have the keys that this site"));
  }
  SECTION("without the site") {
    roster.sites.erase(roster.sites.begin());
    CHECK_THROWS_WITH(round.sites[0].share(roster), Catch::Contains("does not have the keys that this site"));
  }
  SECTION("too few") {
    roster.sites.resize(2);
    CHECK_THROWS_WITH(round.sites[0].share(roster), Catch::Contains("at least 3 are needed"));
  }
  SECTION("signatures of another round") {
    TestRound other(agreement_among(4, 3, 4, 2));
    roster.sites[1] = other.sites[1].advertise();
    CHECK_THROWS_AS(round.sites[0].share(roster), Error);
    CHECK_THROWS_AS(round.sites[2].share(other.coordinator.roster()), Error);
  }
  SECTION("of sites that make their numbers otherwise") {
    Agreement told = round.agreement;
    told.values = "smaller, so that others' show";
    TestRound other(told);
    other.sites[0].advertise();
    CHECK_THROWS_WITH(other.sites[0].share(roster), Catch::Contains("another federation, round or setting"));
  }
  SECTION("after a refusal, a site does nothing more") {
    CHECK_THROWS_AS(round.sites[0].share({}), Error);
    CHECK_THROWS_WITH(round.sites[0].share(roster), Catch::Contains("refused"));
  }
}

TEST_CASE("secure aggregation: sites with different rosters cannot exchange shares") {
  TestRound round(agreement_among(5, 3));
  round.advertise();
  const Roster all = round.coordinator.roster();
  Roster fewer = all;
  fewer.sites.pop_back();
  const SharesUpload from_first = round.sites[0].share(all);
  round.sites[1].share(fewer);
  const RoundContext context(round.agreement, fewer);
  SharesDelivery delivery{context.digest(), {}};
  delivery.shares.push_back({0, from_first.shares[0].sealed});
  CHECK_THROWS_WITH(round.sites[1].mask(delivery, std::vector<std::int64_t>(3)),
                    Catch::Contains("shares of 2 sites came, and 4 are needed"));
}

// Site 3 of 6 lies about shares, to one site or to all, and may leave afterwards.
TEST_CASE("secure aggregation: who lies about shares disagrees with the others before anything is unmasked") {
  enum class Lie { unopenable, not_committed, no_receipt, false_receipt, false_expectation };
  const auto lie = GENERATE(Lie::unopenable, Lie::not_committed, Lie::no_receipt, Lie::false_receipt,
                            Lie::false_expectation);
  const bool to_all = GENERATE(true, false), of_shares = lie == Lie::unopenable || lie == Lie::not_committed;
  const bool leaves = of_shares && GENERATE(true, false);
  const auto concerns = [&](std::uint32_t other) { return to_all || other == 5; };
  TestRound round(agreement_among(6, 3));
  round.advertise();
  for (Site& site : round.sites) {
    SharesUpload upload = site.share(round.coordinator.roster());
    for (SealedShares& shares : upload.shares)
      if (of_shares && upload.sender == 3 && concerns(shares.other))
        (lie == Lie::unopenable ? shares.sealed[7] : shares.commitments[1][7]) ^= std::byte{1};
    round.coordinator.receive(upload);
  }
  round.coordinator.end_phase();
  for (std::uint32_t site = 0; site < 6; ++site) {
    MaskedInput input =
        round.sites[site].mask(round.coordinator.delivery(site), std::vector<std::int64_t>(3));
    if (site == 3 && leaves) continue;
    if (site == 3 && lie == Lie::no_receipt)
      std::erase_if(input.receipts, [&](const Receipt& receipt) { return concerns(receipt.other); });
    for (Receipt& receipt : lie == Lie::false_receipt ? input.receipts : input.expected)
      if (site == 3 && (lie == Lie::false_receipt || lie == Lie::false_expectation) &&
          concerns(receipt.other))
        receipt.token[9] ^= std::byte{1};
    round.coordinator.receive(TestRound::sent(input));
  }
  CHECK_THROWS_WITH(round.coordinator.end_phase(), Catch::Contains("'site 3' and 'site 5'"));
  const auto& disagreements = round.coordinator.disagreements();
  REQUIRE(disagreements.size() == (to_all ? 6 : 2));
  CHECK(disagreements.at(3).size() == (to_all ? 5 : 1));
  CHECK(disagreements.at(5) == std::set<std::uint32_t>{3});
  CHECK(round.coordinator.most_liars() == 1);
  CHECK(round.coordinator.cheaters().empty());
}

// Site 3 of 6 sends shares that nobody can use, and leaves; with it go two others, so too few are left.
TEST_CASE("secure aggregation: who lied about shares is known also if too few sites are left") {
  TestRound round(agreement_among(6, 3));
  round.advertise();
  for (Site& site : round.sites) {
    SharesUpload upload = site.share(round.coordinator.roster());
    for (SealedShares& shares : upload.shares)
      if (upload.sender == 3) shares.sealed[7] ^= std::byte{1};
    round.coordinator.receive(upload);
  }
  round.coordinator.end_phase();
  for (const std::uint32_t site : {0, 1, 2})
    round.coordinator.receive(
        round.sites[site].mask(round.coordinator.delivery(site), std::vector<std::int64_t>(3)));
  CHECK_THROWS_WITH(round.coordinator.end_phase(), Catch::Contains("'site 2' and 'site 3'"));
  CHECK(round.coordinator.disagreements().at(3) == std::set<std::uint32_t>{0, 1, 2});
}

// Of 4 sites all must stay, so without one other's shares a site has too few.
TEST_CASE("secure aggregation: a site that can use too few shares says so and sends no vector") {
  Agreement agreement = agreement_among(4, 3);
  agreement.least = 4;
  TestRound round(agreement);
  round.advertise();
  round.share();
  SharesDelivery delivery = round.coordinator.delivery(1);
  delivery.shares[0].sealed[7] ^= std::byte{1};
  const MaskedInput input = round.sites[1].mask(delivery, std::vector<std::int64_t>(3));
  CHECK_FALSE(round.sites[1].has_masked());
  CHECK(input.packed.size() == 12);
  CHECK(input.receipts.size() == 2);
  CHECK(input.expected.size() == 3);
  CHECK_THROWS_WITH(round.sites[1].consent({delivery.context, {0, 1, 2, 3}}),
                    Catch::Contains("refused to go on"));
}

TEST_CASE(
    "secure aggregation: holders that send false shares to unmask with are named, and the sum is exact") {
  const std::size_t n = GENERATE(6u, 32u);
  const Agreement agreement = agreement_among(n, 3);
  TestRound round(agreement);
  const Vectors vectors = vectors_for(agreement, n);
  round.leaves[1] = Leaves::after_sharing;
  round.advertise();
  round.share();
  round.mask(vectors);
  round.consent();
  std::set<std::uint32_t> liars{0};
  for (std::uint32_t site = 20; site + 1 < n - agreement.least + 20 && n == 32; ++site) liars.insert(site);
  std::vector<std::uint32_t> counted;
  for (std::uint32_t site = 0; site < n; ++site) {
    if (site == 1) continue;
    counted.push_back(site);
    Unmasking parts = round.sites[site].unmask(round.coordinator.consents(site));
    if (liars.contains(site)) parts.parts[site == 0 ? 2 : 5].share.bytes()[5] ^= std::byte{1};
    round.coordinator.receive(parts);
  }
  round.coordinator.end_phase();
  const RingVector sum = round.coordinator.sum();
  for (std::size_t i = 0; i < 3; ++i) CHECK(sum[i] == plain_sum(vectors, counted)[i]);
  CHECK(round.coordinator.cheaters() == liars);
}

TEST_CASE("secure aggregation: a site that deals shares of another secret is named, and nobody else") {
  TestRound round(agreement_among(6, 3));
  round.advertise();
  for (Site& site : round.sites) {
    SharesUpload upload = site.share(round.coordinator.roster());
    if (upload.sender == 3) upload.commitment[0] ^= std::byte{1};
    round.coordinator.receive(upload);
  }
  round.coordinator.end_phase();
  round.mask(Vectors(6, std::vector<std::int64_t>(3)));
  round.consent();
  round.unmask();
  CHECK_THROWS_WITH(round.coordinator.sum(), Catch::Contains("'site 3' dealt"));
  CHECK(round.coordinator.cheaters() == std::set<std::uint32_t>{3});
}

TEST_CASE("secure aggregation: naming different survivors to sites reveals no share") {
  TestRound round(agreement_among(6, 3));
  round.advertise();
  round.share();
  round.mask(vectors_for(round.agreement, 1));
  const auto all = [&](std::uint32_t site) { return round.coordinator.survivors(site); };
  const auto without_0 = [&](std::uint32_t site) {
    Survivors survivors = all(site);
    survivors.sites.erase(survivors.sites.begin());
    return survivors;
  };
  std::vector<Consent> consents;
  CHECK_THROWS_WITH(round.sites[0].consent(without_0(0)), Catch::Contains("do not include this site"));
  for (std::uint32_t site = 1; site < 6; ++site)
    consents.push_back(round.sites[site].consent(site < 4 ? all(site) : without_0(site)));
  // Sites 1, 2 and 3 consented to one set, and sites 4 and 5 to the other. Either set needs 4 consents.
  for (std::uint32_t site = 1; site < 6; ++site) {
    Consents told{all(site).context, {}};
    SECTION("with all signatures, to site " + std::to_string(site)) {
      told.sites = consents;
      CHECK_THROWS_WITH(round.sites[site].unmask(told),
                        Catch::Contains("may have told other sites of other survivors"));
    }
    SECTION("with those that fit, to site " + std::to_string(site)) {
      for (std::uint32_t other = 1; other < 6; ++other)
        if ((site < 4) == (other < 4)) told.sites.push_back(consents[other - 1]);
      CHECK_THROWS_WITH(round.sites[site].unmask(told), Catch::Contains("are needed"));
    }
    SECTION("with one that is repeated, to site " + std::to_string(site)) {
      told.sites = std::vector<Consent>(6, consents[site < 4 ? 1 : 4]);
      CHECK_THROWS_WITH(round.sites[site].unmask(told), Catch::Contains("are needed"));
    }
  }
}

TEST_CASE("secure aggregation: a site refuses sums over too few, and a second sum") {
  TestRound round(agreement_among(6, 3));
  round.leaves[5] = Leaves::after_sharing;
  round.advertise();
  round.share();
  round.mask(vectors_for(round.agreement, 1));
  SECTION("too few") {
    const Survivors few{round.coordinator.survivors().context, {0, 1, 2}};
    CHECK_THROWS_WITH(round.sites[0].consent(few), Catch::Contains("sums over at least 4"));
    CHECK_THROWS_WITH(round.sites[0].consent(round.coordinator.survivors(0)), Catch::Contains("refused"));
  }
  SECTION("a second time") {
    round.consent();
    const Unmasking unmasking = round.sites[0].unmask(round.coordinator.consents(0));
    CHECK_THROWS_AS(round.sites[0].unmask(round.coordinator.consents(0)), Error);
    CHECK_THROWS_AS(round.sites[0].consent(round.coordinator.survivors(0)), Error);
    // One share for each site: of the masking key if the site dropped out, else of the seed.
    REQUIRE(unmasking.parts.size() == 6);
    for (const auto& part : unmasking.parts) CHECK(part.dropped == (part.owner == 5));
  }
  SECTION("whose shares were held back") {
    TestRound other(agreement_among(6, 3, 4, 2));
    other.advertise();
    other.share();
    SharesDelivery delivery = other.coordinator.delivery(0);
    delivery.shares.pop_back();
    other.sites[0].mask(delivery, std::vector<std::int64_t>(3));
    CHECK_THROWS_WITH(other.sites[0].consent({delivery.context, {0, 1, 2, 3, 4, 5}}),
                      Catch::Contains("its shares never came"));
  }
  SECTION("with shares of too few") {
    TestRound other(agreement_among(6, 3, 4, 2));
    other.advertise();
    other.share();
    SharesDelivery delivery = other.coordinator.delivery(0);
    delivery.shares.resize(2);
    CHECK_THROWS_WITH(other.sites[0].mask(delivery, std::vector<std::int64_t>(3)),
                      Catch::Contains("are needed"));
  }
}

// Few masking neighbours, and a coordinator that takes them from a site one by one: from some it holds back
// shares, others it declares dropped, and the rest collude.
TEST_CASE("secure aggregation: a site whose masks are taken from it is in no sum") {
  const std::size_t n = GENERATE(6u, 9u, 12u, 18u);
  TestRound round(agreement_among(n, 3));
  round.advertise();
  round.share();
  const RoundContext context(round.agreement, round.coordinator.roster());
  const std::uint32_t victim = 2;
  const auto neighbours = context.graph().masking(victim);
  REQUIRE(neighbours.size() < n - 1);
  const std::size_t most = n - round.agreement.least;
  std::set<std::uint32_t> held_back, dropped;
  for (const std::uint32_t other : neighbours)
    if (held_back.size() < most)
      held_back.insert(other);
    else if (dropped.size() + 1 < most)
      dropped.insert(other);
  REQUIRE(neighbours.size() <= held_back.size() + dropped.size() + round.agreement.colluding);  // the rest
  Survivors survivors{context.digest(), {}};
  std::map<std::uint32_t, std::vector<Receipt>> receipts;
  for (std::uint32_t site = 0; site < n; ++site) {
    SharesDelivery delivery = round.coordinator.delivery(site);
    if (site == victim)
      std::erase_if(delivery.shares, [&](const auto& shares) { return held_back.contains(shares.other); });
    receipts[site] = round.sites[site].mask(delivery, std::vector<std::int64_t>(3)).receipts;
    if (!dropped.contains(site)) survivors.sites.push_back(site);
  }
  CHECK(receipts[victim].size() == n - 1 - held_back.size());
  const bool forged = GENERATE(false, true);
  std::size_t consents = 0;
  for (const std::uint32_t site : survivors.sites) {
    Survivors told = survivors;
    for (const std::uint32_t other : survivors.sites)
      for (const Receipt& receipt : receipts[other])
        if (receipt.other == site) told.receipts.push_back({other, receipt.token});
    if (forged && held_back.contains(site))
      told.receipts.insert(std::ranges::lower_bound(told.receipts, victim, {}, &Receipt::other),
                           {victim, receipts[victim][0].token});
    try {
      round.sites[site].consent(told);
      ++consents;
    } catch (const Error& error) {
      if (site == victim)
        CHECK_THAT(error.what(), Catch::Contains("its shares never came"));
      else
        CHECK_THAT(error.what(), Catch::Contains("'site 2' is among the survivors, and does not confirm"));
    }
  }
  CHECK(consents == survivors.sites.size() - 1 - held_back.size());
  CHECK(consents < context.graph().degrees().threshold);
}

TEST_CASE("secure aggregation: a vector that fails while being added ends the round") {
  TestRound round(agreement_among(4, 100));
  round.advertise();
  round.share();
  const Vectors vectors = vectors_for(round.agreement, 1);
  const auto input = [&](std::uint32_t site) {
    return round.sites[site].mask(round.coordinator.delivery(site), vectors[site]);
  };
  const std::size_t size = 100 * round.agreement.ring.width;
  const MaskedInput first = input(0);
  CHECK_THROWS_WITH(round.coordinator.arrive(first, size - 1), Catch::Contains("of 399 bytes"));
  round.coordinator.arrive(first, size);
  CHECK_THROWS_WITH(round.coordinator.add([](auto, auto) { fail("a bad sector"); }),
                    Catch::Contains("a bad sector"));
  for (const std::uint32_t site : {1u, 2u}) round.coordinator.receive(input(site));
  const MaskedInput last = input(3);  // reading this one without an error does not repair the sum
  round.coordinator.arrive(last, size);
  round.coordinator.add([&](std::size_t offset, std::span<std::byte> out) {
    std::ranges::copy_n(last.packed.begin() + static_cast<std::ptrdiff_t>(offset),
                        static_cast<std::ptrdiff_t>(out.size()), out.begin());
  });
  CHECK_THROWS_WITH(round.coordinator.end_phase(), Catch::Contains("part of it is in the sum"));
}

TEST_CASE("secure aggregation: the coordinator takes a message once, in its phase") {
  TestRound round(agreement_among(4, 3)), other(agreement_among(4, 3, 4, 2));
  const Vectors vectors = vectors_for(round.agreement, 1);
  Coordinator& coordinator = round.coordinator;
  const Advertisement foreign = other.sites[0].advertise(), keys = round.sites[0].advertise();
  CHECK_THROWS_AS(coordinator.receive(foreign), Error);
  CHECK_THROWS_AS(coordinator.receive(SharesUpload{}), Error);
  CHECK_THROWS_AS(coordinator.receive(MaskedInput{}), Error);
  CHECK_THROWS_AS(coordinator.receive(Consent{}), Error);
  CHECK_THROWS_AS(coordinator.receive(Unmasking{}), Error);
  CHECK_THROWS_AS(coordinator.end_phase(), Error);
  Advertisement of_low_order = keys;
  of_low_order.masking_key = {};
  CHECK_THROWS_WITH(coordinator.receive(of_low_order), Catch::Contains("no secret can be agreed on"));
  coordinator.receive(keys);
  CHECK_THROWS_WITH(coordinator.receive(keys), Catch::Contains("a second time"));
  for (std::uint32_t site = 1; site < 4; ++site) coordinator.receive(round.sites[site].advertise());
  coordinator.end_phase();
  CHECK_THROWS_WITH(coordinator.receive(keys), Catch::Contains("too late"));

  SharesUpload upload = round.sites[0].share(coordinator.roster());
  const SharesUpload good = upload;
  upload.shares.pop_back();
  CHECK_THROWS_WITH(coordinator.receive(upload), Catch::Contains("than its neighbours"));
  upload = good;
  upload.sender = 7;
  CHECK_THROWS_AS(coordinator.receive(upload), Error);
  coordinator.receive(good);
  for (std::uint32_t site = 1; site < 4; ++site)
    coordinator.receive(round.sites[site].share(coordinator.roster()));
  coordinator.end_phase();

  const MaskedInput input = round.sites[0].mask(coordinator.delivery(0), vectors[0]);
  MaskedInput wrong = input;
  wrong.packed.pop_back();
  CHECK_THROWS_WITH(coordinator.receive(wrong), Catch::Contains("11 bytes of site 'site 0', expected 12"));
  wrong = input;
  wrong.context = other.agreement.digest();
  CHECK_THROWS_WITH(coordinator.receive(wrong), Catch::Contains("another round"));
  coordinator.receive(input);
  CHECK_THROWS_WITH(coordinator.receive(input), Catch::Contains("a second time"));
  for (std::uint32_t site = 1; site < 3; ++site)
    coordinator.receive(round.sites[site].mask(coordinator.delivery(site), vectors[site]));
  coordinator.end_phase();
  CHECK_THROWS_WITH(coordinator.receive(round.sites[3].mask(coordinator.delivery(3), vectors[3])),
                    Catch::Contains("too late"));
  round.leaves[3] = Leaves::after_sharing;
  round.consent();
  Unmasking unmasking = round.sites[0].unmask(coordinator.consents(0));
  const Unmasking whole = unmasking;
  unmasking.parts.pop_back();
  CHECK_THROWS_WITH(coordinator.receive(unmasking), Catch::Contains("than those asked for"));
  coordinator.receive(whole);
  SECTION("false shares are noticed, and others must be enough") {
    for (std::uint32_t site = 1; site < 3; ++site) {
      Unmasking parts = round.sites[site].unmask(coordinator.consents(site));
      if (site == 1) parts.parts[0].share.bytes()[5] ^= std::byte{1};
      coordinator.receive(parts);
    }
    CHECK(coordinator.cheaters() == std::set<std::uint32_t>{1});
    coordinator.end_phase();
    CHECK_THROWS_WITH(coordinator.sum(),
                      Catch::Contains("2 shares of a secret of site 'site 0' came, and 3"));
  }
  SECTION("and the sum is given once") {
    for (std::uint32_t site = 1; site < 3; ++site)
      coordinator.receive(round.sites[site].unmask(coordinator.consents(site)));
    CHECK_THROWS_AS(coordinator.sum(), Error);
    coordinator.end_phase();
    const RingVector sum = coordinator.sum();
    for (std::size_t i = 0; i < 3; ++i) CHECK(sum[i] == plain_sum(vectors, {0, 1, 2})[i]);
    CHECK_THROWS_AS(coordinator.sum(), Error);
    CHECK_THROWS_AS(coordinator.end_phase(), Error);
  }
}

TEST_CASE("Agreement: terms that allow two sets of survivors are refused") {
  Agreement agreement = agreement_among(9, 3);
  CHECK(agreement.least == 6);
  CHECK(agreement.colluding == 2);
  agreement.colluding = 3;
  CHECK_THROWS_WITH(agreement.check(), Catch::Contains("two sets of survivors"));
  agreement = agreement_among(9, 3);
  agreement.least = 10;
  CHECK_THROWS_AS(agreement.check(), Error);
  agreement = agreement_among(9, 3);
  agreement.sites[3] = agreement.sites[4];
  CHECK_THROWS_WITH(agreement.check(), Catch::Contains("same name"));
  CHECK_THROWS_AS(agreement_among(2, 3), Error);
  CHECK_THROWS_AS(agreement_among(0, 3), Error);
  CHECK_THROWS_AS(agreement_among(3, 0), Error);
  CHECK_THROWS_AS(agreement_among(3, 3, 9), Error);
}

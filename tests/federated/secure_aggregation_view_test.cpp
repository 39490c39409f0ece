// What a coordinator can learn about one site if it keeps every message, and colluding sites tell it all they
// know.
#include <catch2/catch.hpp>
#include <cmath>
#include <set>

#include "federated/secure_aggregation/secret_sharing.h"
#include "tests/federated/secure_aggregation_round.h"

using namespace conclave;
using namespace conclave::secure_aggregation;

namespace {

using RingNumbers = std::vector<std::uint32_t>;

RingNumbers words_of(const RingVector& vector) {
  RingNumbers words(vector.size());
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint32_t>(vector[i]);
  return words;
}

// The statistic has 255 degrees of freedom. For uniform bytes it is above 436 only once in 10^11 times.
double chi_square(ByteView bytes) {
  std::vector<double> counts(256);
  for (const std::byte byte : bytes) ++counts[static_cast<std::size_t>(byte)];
  const double expected = static_cast<double>(bytes.size()) / 256;
  double sum = 0;
  for (const double count : counts) sum += (count - expected) * (count - expected) / expected;
  return sum;
}
constexpr double kLikely = 436;

Bytes difference(const Bytes& a, const Bytes& b) {
  Bytes result(a.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    result[i] = static_cast<std::byte>(static_cast<unsigned>(a[i]) - static_cast<unsigned>(b[i]));
  return result;
}

// The secrets of all sites of a round whose source of randomness is known. Each site draws its own first.
struct Secrets {
  Secret encryption_key, masking_key, seed;
};
std::vector<Secrets> secrets_of(const Secret& source, std::size_t sites) {
  SeededRandom replay(source);
  std::vector<Secrets> secrets;
  for (std::size_t i = 0; i < sites; ++i) {
    Secrets& site = secrets.emplace_back();
    for (Secret* secret : {&site.encryption_key, &site.masking_key, &site.seed}) replay.fill(secret->bytes());
  }
  return secrets;
}

}  // namespace

TEST_CASE("secure aggregation: masked vectors are uniform and differ each time") {
  const auto value = GENERATE(std::int64_t{0}, std::int64_t{1}, std::int64_t{1} << 28, -std::int64_t{12345});
  const std::size_t length = 300'000;
  const std::vector<std::vector<std::int64_t>> vectors(3, std::vector<std::int64_t>(length, value));
  std::vector<Bytes> seen;
  for (std::uint64_t number = 1; number <= 2; ++number) {
    TestRound round(agreement_among(3, length, 4, number));
    round.sum(vectors);
    for (const auto& [site, packed] : round.seen) seen.push_back(packed);
  }
  REQUIRE(seen.size() == 6);
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(chi_square(seen[i]) < kLikely);
    // Compare with other sites that have the same vector, and with the same site in another round.
    for (std::size_t j = 0; j < i; ++j) CHECK(chi_square(difference(seen[i], seen[j])) < kLikely);
  }
}

TEST_CASE("secure aggregation: commitments and encrypted shares are uniform") {
  Bytes sent;
  for (std::uint64_t number = 0; number < 12; ++number) {
    TestRound round(agreement_among(12, 1, 4, number));
    round.advertise();
    for (Site& site : round.sites) {
      const SharesUpload upload = round.sent(site.share(round.coordinator.roster()));
      sent.insert(sent.end(), upload.commitment.begin(), upload.commitment.end());
      for (const SealedShares& shares : upload.shares)
        sent.insert(sent.end(), shares.sealed.begin(), shares.sealed.end());
    }
  }
  CHECK(sent.size() > 100'000);
  CHECK(chi_square(sent) < kLikely);
}

TEST_CASE("secure aggregation: any vectors with the same sum explain what was seen") {
  // Sites 0 to 2 collude. Sites 3 and 4 drop out after sharing keys, and site 5 later. So the coordinator
  // learns the masking keys of sites 3 and 4, and the seeds of all others.
  const std::size_t n = 14, length = 5;
  const Agreement agreement = agreement_among(n, length);
  REQUIRE(agreement.least == 10);
  const std::uint32_t colluding = 3;
  REQUIRE(agreement.colluding >= colluding);
  SystemRandom system;
  const Secret source(system);
  SeededRandom random(source);
  const std::vector<Secrets> secrets = secrets_of(source, n);

  TestRound round(agreement, random);
  round.leaves = {{3, Leaves::after_sharing}, {4, Leaves::after_sharing}, {5, Leaves::after_vector}};
  std::vector<std::vector<std::int64_t>> vectors(n, std::vector<std::int64_t>(length));
  RandomBits bits(system);
  for (auto& vector : vectors)
    for (auto& value : vector) value = static_cast<std::int64_t>(bits.below(1000));
  round.advertise();
  round.share();
  round.mask(vectors);
  round.consent();
  const RoundContext context(agreement, round.coordinator.roster());
  std::map<std::uint32_t, std::vector<Share>> learnt_seeds, learnt_keys;
  for (std::uint32_t site = 0; site < n; ++site) {
    if (round.leaves.contains(site)) continue;
    const Unmasking unmasking = round.sent(round.sites[site].unmask(round.coordinator.consents(site)));
    for (const auto& part : unmasking.parts) {
      const auto holders = context.holders(part.owner);
      const auto place = std::ranges::lower_bound(holders, site) - holders.begin() + 1;
      (part.dropped ? learnt_keys : learnt_seeds)[part.owner].push_back(
          {static_cast<std::uint16_t>(place), part.share});
    }
  }
  // For each site, shares of one of its two secrets were revealed, and none of the other.
  for (std::uint32_t site = 0; site < n; ++site) {
    const bool dropped = site == 3 || site == 4;
    CHECK(learnt_seeds.contains(site) == !dropped);
    CHECK(learnt_keys.contains(site) == dropped);
    auto& shares = (dropped ? learnt_keys : learnt_seeds)[site];
    shares.resize(agreement.least);
    CHECK(reconstruct(shares).bytes() == (dropped ? secrets[site].masking_key : secrets[site].seed).bytes());
  }

  // `left`: each honest survivor's masked vector, minus the masks that the coordinator and the colluding
  // sites know.
  std::set<std::uint32_t> honest;
  std::map<std::uint32_t, RingNumbers> left;
  RingNumbers honest_sum(length);
  for (std::uint32_t site = colluding; site < n; ++site) {
    if (site == 3 || site == 4) continue;
    honest.insert(site);
    std::vector<Mask> known = {context.own_mask(secrets[site].seed, site)};
    for (const std::uint32_t other : context.graph().masking(site))
      if (other < 5 && other != site) {
        known.push_back(context.pair_mask(secrets[other].masking_key, other, site));
        known.back().subtract = !known.back().subtract;  // with the sign that `site` uses
      }
    for (Mask& mask : known) mask.subtract = !mask.subtract;
    RingVector vector(agreement.ring, length);
    vector.add(round.seen[site]);
    add_masks(vector, known);
    left[site] = words_of(vector);
    for (std::size_t i = 0; i < length; ++i) {
      honest_sum[i] += static_cast<std::uint32_t>(vectors[site][i]);
      CHECK(left[site][i] != static_cast<std::uint32_t>(vectors[site][i]));
    }
  }
  RingNumbers left_sum(length);
  for (const auto& [site, words] : left)
    for (std::size_t i = 0; i < length; ++i) left_sum[i] += words[i];
  CHECK(left_sum == honest_sum);

  // Find other vectors with the same sum, and masks between honest sites that give the same masked vectors.
  // Pairs outside a spanning tree get random masks. Along the tree, from its leaves, each site gets the mask
  // that it still needs.
  std::map<std::uint32_t, RingNumbers> need;  // sum of the masks, by site
  RingNumbers rest = honest_sum;
  for (const std::uint32_t site : honest) {
    need[site] = left[site];
    for (std::size_t i = 0; i < length; ++i) {
      const auto other = site == *honest.rbegin() ? rest[i] : static_cast<std::uint32_t>(bits.next());
      need[site][i] -= other;
      rest[i] -= other;
    }
  }
  std::vector<std::uint32_t> order = {*honest.begin()};
  std::map<std::uint32_t, std::uint32_t> parent;
  std::set<std::pair<std::uint32_t, std::uint32_t>> pairs;
  for (std::size_t next = 0; next < order.size(); ++next)
    for (const std::uint32_t other : context.graph().masking(order[next])) {
      if (!honest.contains(other)) continue;
      pairs.insert(std::minmax(order[next], other));
      if (other != order[0] && parent.emplace(other, order[next]).second) order.push_back(other);
    }
  REQUIRE(order.size() == honest.size());
  const auto give = [&](std::uint32_t from, std::uint32_t to, std::size_t i, std::uint32_t mask) {
    need[from][i] -= mask;  // one site adds the mask, and the other one subtracts it
    need[to][i] += mask;
  };
  for (const auto& [a, b] : pairs) {
    const bool in_tree = (parent.contains(a) && parent[a] == b) || (parent.contains(b) && parent[b] == a);
    for (std::size_t i = 0; i < length && !in_tree; ++i)
      give(a, b, i, static_cast<std::uint32_t>(bits.next()));
  }
  for (std::size_t at = order.size(); at-- > 1;)
    for (std::size_t i = 0; i < length; ++i) give(order[at], parent[order[at]], i, need[order[at]][i]);
  for (const std::uint32_t site : honest)
    CHECK(need[site] == RingNumbers(length));  // for the tree's root, because the sums are equal
}

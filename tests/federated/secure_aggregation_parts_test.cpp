// The parts of secure aggregation: keys, shares, ring, masks, fixed point, neighbours.
#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <set>

#include "federated/secure_aggregation/fixed_point.h"
#include "federated/secure_aggregation/mask.h"
#include "federated/secure_aggregation/neighbours.h"
#include "federated/secure_aggregation/secret_sharing.h"

using namespace conclave;
using namespace conclave::secure_aggregation;

namespace {

SystemRandom system_random;

Key key_of(std::string_view hex) {
  Key key;
  for (std::size_t i = 0; i < key.size(); ++i)
    key[i] = static_cast<std::byte>(std::stoi(std::string(hex.substr(2 * i, 2)), nullptr, 16));
  return key;
}

ByteView text_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

Agreement agreement_of(std::size_t sites, std::uint32_t least, std::uint32_t colluding) {
  Agreement agreement;
  for (std::size_t i = 0; i < sites; ++i) agreement.sites.push_back(std::to_string(i));
  agreement.least = least;
  agreement.colluding = colluding;
  agreement.length = 1;
  agreement.check();
  return agreement;
}

// Whether masks connect all sites that are not in `out`.
bool connected(const NeighbourGraph& graph, std::size_t sites, const std::set<std::uint32_t>& out) {
  std::set<std::uint32_t> reached;
  std::vector<std::uint32_t> next;
  for (std::uint32_t site = 0; site < sites && next.empty(); ++site)
    if (!out.contains(site)) next = {site};
  reached.insert(next.begin(), next.end());
  while (!next.empty()) {
    const std::uint32_t site = next.back();
    next.pop_back();
    for (const std::uint32_t other : graph.masking(site))
      if (!out.contains(other) && reached.insert(other).second) next.push_back(other);
  }
  return reached.size() + out.size() == sites;
}

std::vector<std::uint32_t> first(std::size_t sites) {
  std::vector<std::uint32_t> numbers(sites);
  for (std::uint32_t i = 0; i < sites; ++i) numbers[i] = i;
  return numbers;
}

}  // namespace

TEST_CASE("X25519 follows RFC 7748 and refuses a key of low order") {
  // section 5.2
  const Secret alice(key_of("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"));
  CHECK(agree(alice, key_of("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")).bytes() ==
        key_of("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"));
  const Secret bob(system_random);
  CHECK(agree(alice, public_key(bob)).bytes() == agree(bob, public_key(alice)).bytes());
  CHECK_THROWS_AS(agree(alice, Key{}), Error);
}

TEST_CASE("open() needs the same key, the same associated bytes and unaltered text") {
  const Secret key(system_random), other(system_random);
  const Bytes sealed = seal(key, text_bytes("1 to 2"), text_bytes("a secret"));
  const Bytes opened = open(key, text_bytes("1 to 2"), sealed);
  CHECK(std::ranges::equal(opened, text_bytes("a secret")));
  CHECK_THROWS_AS(open(other, text_bytes("1 to 2"), sealed), Error);
  CHECK_THROWS_AS(open(key, text_bytes("2 to 1"), sealed), Error);
  for (std::size_t i = 0; i < sealed.size(); ++i) {
    Bytes altered = sealed;
    altered[i] ^= std::byte{1};
    CHECK_THROWS_AS(open(key, text_bytes("1 to 2"), altered), Error);
  }
  CHECK_THROWS_AS(open(key, {}, Bytes(15)), Error);
}

TEST_CASE("secret sharing: any threshold of shares is enough, and one fewer is not") {
  const Secret secret(system_random);
  const std::vector<Share> shares = share_secret(secret, 4, 9, system_random);
  for (unsigned chosen = 0; chosen < 1 << 9; ++chosen) {
    std::vector<Share> some;
    for (std::size_t i = 0; i < 9; ++i)
      if (chosen >> i & 1) some.push_back(shares[i]);
    if (some.size() == 4) CHECK(reconstruct(some).bytes() == secret.bytes());
    if (some.size() == 3) {
      CHECK(reconstruct(some).bytes() != secret.bytes());
      // The value at place 0 would be the secret itself, so no share may have this place.
      const Secret another(system_random);
      some.push_back({0, another});
      CHECK_THROWS_AS(reconstruct(some), Error);
    }
  }
  CHECK_THROWS_AS(share_secret(secret, 3, 2, system_random), Error);
  CHECK_THROWS_AS(share_secret(secret, 0, 2, system_random), Error);
  CHECK_THROWS_AS(share_secret(secret, 2, 65'536, system_random), Error);
  CHECK_THROWS_AS(reconstruct(std::vector<Share>{shares[1], shares[2], shares[1]}), Error);
}

TEST_CASE("secret sharing: a single share is uniform") {
  // How often each byte value occurs in a share, for secrets that are all zeros.
  std::vector<double> counts(256);
  for (int i = 0; i < 2000; ++i) {
    const std::vector<Share> shares = share_secret(Secret(Key{}), 2, 3, system_random);
    for (const std::byte byte : shares[2].value.bytes()) ++counts[static_cast<std::size_t>(byte)];
  }
  double chi_square = 0;
  for (const double count : counts) chi_square += (count - 250) * (count - 250) / 250;
  CHECK(chi_square < 255 + 8 * std::sqrt(2.0 * 255));
}

TEST_CASE("secret sharing: works with 65,535 shares") {
  const Secret secret(system_random);
  std::vector<Share> shares = share_secret(secret, 2, 65'535, system_random);
  CHECK(reconstruct(std::vector<Share>{shares[65'534], shares[40'000]}).bytes() == secret.bytes());
}

TEST_CASE("AesStream: OpenSSL and wide instructions both give AES-128-CTR") {
  // NIST SP 800-38A, F.5.1: the first two output blocks
  Secret seed(key_of("2b7e151628aed2a6abf7158809cf4f3cf0f1f2f3f4f5f6f70000000000000000"));
  const Key expected = key_of("ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae");
  std::vector<bool> ways = {false};
  if (WideAes::available()) ways.push_back(true);
  for (const bool wide : ways) {
    Key blocks;
    AesStream(seed, wide).fill(0xf8f9fafbfcfdfeff, blocks);
    CHECK(blocks == expected);
  }
  // Any part of a stream is the same, whichever implementation computes it.
  seed = Secret(system_random);
  const AesStream openssl(seed, false), either(seed);
  for (const std::size_t size : {1u, 16u, 500u, 512u, 1000u, 40'000u})
    for (const std::uint64_t first : {0u, 1u, 255u, 100'000u}) {
      Bytes a(size), b(size);
      openssl.fill(first, a);
      either.fill(first, b);
      CHECK(a == b);
    }
}

TEST_CASE("masks are the streams of their seeds, and cancel when subtracted") {
  const auto width = GENERATE(2u, 3u, 4u, 5u, 6u, 7u, 8u);
  const std::size_t length = 3 * kGroupWords + 5 * kBlockWords + 13;
  const std::vector<std::int64_t> values(length, -2);
  Mask mask{Secret(system_random)};
  const Bytes packed = masked({width}, values, std::vector{mask});
  RingVector vector({width}, length);
  vector.add(packed);
  bool differs = true;
  for (std::size_t i = 1; i < length; ++i) differs = differs && (width < 6 || vector[i] != vector[i - 1]);
  CHECK(differs);
  mask.subtract = true;
  add_masks(vector, std::vector{mask});
  bool same = true;
  for (std::size_t i = 0; i < length; ++i) same = same && vector[i] == -2;
  CHECK(same);
  // If the values are 0, the masked vector is the stream itself.
  SeededRandom stream(mask.seed);
  Bytes expected(length * width);
  stream.fill(expected);
  mask.subtract = false;
  CHECK(masked({width}, std::vector<std::int64_t>(length), std::vector{mask}) == expected);
}

TEST_CASE("quantize: rounding is unbiased, and values out of range are refused") {
  const FixedPoint format = FixedPoint::choose({2}, 10, 1.0);
  CHECK(format.levels == 3276);
  RandomBits random(system_random);
  const std::vector<float> x(100'000, 0.12345f);
  double sum = 0;
  for (const std::int64_t value : quantize(x, format, random)) {
    const double apart = static_cast<double>(value) - 0.12345 * format.scale;
    REQUIRE(std::abs(apart) < 1);
    sum += apart;
  }
  CHECK(std::abs(sum / 1e5) < 6 * 0.5 / std::sqrt(1e5));

  const std::vector<float> most = {1.0f, -1.0f};
  for (int i = 0; i < 100; ++i)
    for (const std::int64_t value : quantize(most, format, random)) CHECK(std::abs(value) <= format.levels);
  for (const float wrong : {NAN, INFINITY, -INFINITY, 1.01f})
    CHECK_THROWS_WITH(quantize(std::vector{0.5f, wrong}, format, random),
                      Catch::Contains("value 1 of the update"));
  CHECK_THROWS_AS(FixedPoint::choose({2}, 300, 1.0), Error);  // 109 levels
  CHECK_THROWS_AS(FixedPoint::choose({2}, 10, 1.0, 3200), Error);
  for (const double clip : {0.0, -1.0, double(NAN), double(INFINITY)})
    CHECK_THROWS_AS(FixedPoint::choose({4}, 10, clip), Error);
}

TEST_CASE("shorten: an update with one large number can then be quantized") {
  const auto width = GENERATE(2u, 4u, 5u, 8u);
  const double clip = GENERATE(0.1, 0.3, 1.0, 1e-3);  // 0.1 as f32 is above 0.1
  std::vector<float> x{0, -7, 0};
  shorten(x, clip);
  CHECK(std::abs(static_cast<double>(x[1])) <= clip);
  CHECK(x[1] == Approx(-clip).epsilon(1e-7));
  RandomBits random(system_random);
  const FixedPoint format = FixedPoint::choose({width}, 10, clip);
  CHECK(quantize(x, format, random)[1] <= -format.levels + 1 + format.levels / 10'000'000);
  std::vector<float> shorter{0.25F * static_cast<float>(clip), 0}, same = shorter;
  shorten(same, clip);
  CHECK(same == shorter);
}

TEST_CASE("FixedPoint: the sum of extreme updates and noise does not wrap") {
  const auto width = GENERATE(2u, 4u, 5u, 8u);
  const FixedPoint format = FixedPoint::choose({width}, 7, 2.5, 100);
  RandomBits random(system_random);
  RingVector sum({width}, 2);
  for (int site = 0; site < 7; ++site) {
    auto words = quantize(std::vector{2.5f, -2.5f}, format, random);
    words[0] += 100;
    words[1] -= 100;
    sum.add(masked({width}, words, {}));
  }
  const std::vector<float> values = dequantize(sum, format);
  const double noise = 710 / format.scale;
  CHECK(values[0] == Approx(17.5).margin(noise).epsilon(1e-6));
  CHECK(values[1] == Approx(-17.5).margin(noise).epsilon(1e-6));
}

TEST_CASE("RingVector: adding in pieces equals adding from memory") {
  const Ring ring{GENERATE(2u, 4u, 5u)};
  constexpr std::size_t kLength = 3 * kGroupWords + 17;
  std::vector<std::int64_t> numbers(kLength);
  for (std::size_t i = 0; i < kLength; ++i) numbers[i] = static_cast<std::int64_t>(i % 20'000) - 10'000;
  const Bytes packed = masked(ring, numbers, {});
  RingVector whole(ring, kLength), pieces(ring, kLength);
  whole.add(packed);
  std::atomic<std::size_t> largest = 0, read = 0;
  pieces.add([&](std::size_t offset, std::span<std::byte> out) {
    std::ranges::copy(std::span(packed).subspan(offset, out.size()), out.begin());
    read += out.size();
    for (std::size_t so_far = largest; so_far < out.size();)
      largest.compare_exchange_weak(so_far, out.size());
  });
  CHECK(read == packed.size());
  CHECK(largest <= kGroupWords * ring.width);
  const FixedPoint format{.scale = 10};
  const std::vector<float> values = dequantize(whole, format);
  CHECK(values == dequantize(pieces, format));
  std::vector<float> some(1000);
  dequantize(pieces, format, 70'000, some);
  CHECK(std::ranges::equal(some, std::span(values).subspan(70'000, 1000)));
}

TEST_CASE("NeighbourGraph: masks connect the honest survivors among few sites") {
  for (std::uint32_t n = 3; n <= 40; ++n) {
    const std::uint32_t least = (2 * n + 2) / 3, colluding = 2 * least - n - 1;
    const Agreement agreement = agreement_of(n, least, colluding);
    const Degrees degrees = choose_degrees(agreement, n);
    CHECK(degrees.sharing == n - 1);
    CHECK(degrees.threshold == least);
    CHECK(degrees.masking == std::min(n - 1, least));
    const NeighbourGraph graph(first(n), degrees, Key{});
    // Take out the worst set, all masking neighbours of a site but one; then a random set.
    RandomBits random(system_random);
    const std::size_t gone = n - least + colluding;
    for (std::uint32_t site = 0; site < n; ++site) {
      const auto near = graph.masking(site);
      for (const std::uint32_t other : near) {
        const auto back = graph.masking(other);
        CHECK(std::ranges::binary_search(back, site));
      }
      std::set<std::uint32_t> out;
      for (std::size_t i = 0; i < near.size() && out.size() < gone; ++i) out.insert(near[i]);
      CHECK(connected(graph, n, out));
      out.clear();
      while (out.size() < gone) out.insert(static_cast<std::uint32_t>(random.below(n)));
      CHECK(connected(graph, n, out));
    }
  }
}

TEST_CASE("NeighbourGraph: many sites have few neighbours, which the seed determines") {
  const Agreement agreement = agreement_of(1000, 800, 50);
  const Degrees degrees = choose_degrees(agreement, 1000);
  CHECK(degrees.sharing < 200);
  CHECK(2 * degrees.threshold > degrees.sharing + 1);
  const Key seed = Secret(system_random).bytes();
  const NeighbourGraph graph(first(1000), degrees, seed), again(first(1000), degrees, seed),
      other(first(1000), degrees, Key{});
  CHECK(graph.sharing(3) == again.sharing(3));
  CHECK(graph.sharing(3) != other.sharing(3));
  CHECK(graph.sharing(3).size() == degrees.sharing);
  CHECK_THROWS_WITH(choose_degrees(agreement, 799), Catch::Contains("at least 800 are needed"));
  // Even a coordinator that tries many orders finds none in which a site's colluding neighbours can
  // reconstruct both of its secrets.
  // log2 of the probability of `hits` colluding sites among `drawn`.
  const auto colluding = [](std::size_t drawn, std::size_t hits) {
    const auto log_choose = [](double n, double k) {
      return (std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1)) / std::log(2.0);
    };
    const auto among = static_cast<double>(drawn), of = static_cast<double>(hits);
    return log_choose(50, of) + log_choose(949, among - of) - log_choose(999, among);
  };
  CHECK(std::log2(1000) + colluding(degrees.sharing, 2 * degrees.threshold - degrees.sharing - 1) < -95);
  // So many colluding sites do not allow fewer neighbours than all.
  CHECK(choose_degrees(agreement_of(200, 134, 67), 200).sharing == 199);
}

#include "federated/secure_round.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <ctime>
#include <future>
#include <set>
#include <thread>

#include "core/clock.h"
#include "federated/identity.h"
#include "federated/secure_aggregation/site.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using namespace conclave::secure_aggregation;
using Phase = SecureRound::Phase;
using Kits = std::vector<Kit>;

using Catch::Matchers::Contains;

namespace {

const std::vector<std::string> kSites{"east", "north", "south", "west"};
constexpr std::uint64_t kElements = 3;
constexpr double kPhaseSeconds = 600, kPatience = 100;  // a test that is right waits for neither
const RoundWork kWork{.round = 0, .rounds = 1, .model_sha256 = "of a round", .local_steps = 2};

std::string_view text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// An attempt with all sites, which has just begun.
struct StartedRound {
  explicit StartedRound(RoundPrivacy privacy = {}, std::int64_t least = 3)
      : round(folder.path(), database, board,
              {.enabled = true,
               .federation = "test",
               .phase_seconds = kPhaseSeconds,
               .privacy = privacy,
               .least = least},
              [this](const std::string& text) {
                said += text + "\n";
                said_at = Clock::now();
              }) {
    const CertificateAuthority authority = CertificateAuthority::create("test");
    const std::filesystem::path model = folder.write("model", "of a round");
    board.open({.round = 0,
                .rounds = 1,
                .model = model,
                .digest = digest_of(model),
                .elements = kElements,
                .secure = true});
    for (const std::string& site : kSites) {
      authority.issue(folder.path() + "/" + site, site, 1);
      kits.push_back(Kit::read(folder.path() + "/" + site, std::time(nullptr)));
      ready.push_back({.site = site,
                       .file = {},
                       .examples = 1,
                       .metrics = {},
                       .tokens = {},
                       .digest = "",
                       .certificate = kits.back().certificate});
    }
    start_attempt();
    offer = {.round = 0,
             .base = digest_of(model),
             .update = {},
             .examples = 1,
             .metrics = {},
             .tokens = {},
             .certificate = "a renewed one"};
    CHECK_FALSE(round.ready(kSites[0], offer, 0, 0, [] { return false; }));  // the attempt has the old one
    offer.certificate = kits[0].certificate;
    get_terms();
    CHECK(values == sum_values(kWork, SecureOptions().clip_norm, 0, privacy));
    CHECK(number > begun);  // above the numbers of a federation that began before
  }
  ~StartedRound() { round.stop(); }

  /// Begins an attempt.
  void start_attempt() {
    loop = std::jthread([this] {
      const auto sum = round.attempt(
          kWork, kElements, ready,
          [this] {
            if (meanwhile) meanwhile();
          },
          [this] { return std::string(is_full ? "the disk is full" : ""); });
      if (sum) sum_survivors = sum->survivors.size();
    });
  }
  void begin_again() {
    start_attempt();
    get_terms();
  }
  /// An attempt in which these sites send nothing in `phase`, `mask` or a later one, to its end.
  void fail_without(const std::set<std::string>& gone, Phase phase) {
    const auto shares = deliveries();
    for (std::size_t i = 0; i < kSites.size(); ++i)
      if (phase != Phase::mask || !gone.contains(kSites[i])) upload(i, masked(i, shares[i]));
    std::vector<Bytes> told(kSites.size());
    const auto send_but_gone = [&](auto make) {
      for (std::size_t i = 0; i < kSites.size(); ++i)
        if (!gone.contains(kSites[i])) send(i, phase, make(i));
    };
    const auto consent = [&](std::size_t i) { return sites[i].consent(Survivors::decode(told[i])).encode(); };
    if (phase > Phase::mask) told = exchange(Phase::mask, 0, [](std::size_t) { return Bytes(); });
    if (phase == Phase::consent) send_but_gone(consent);
    if (phase == Phase::unmask) {
      told = exchange(Phase::consent, 0, consent);
      send_but_gone([&](std::size_t i) { return sites[i].unmask(Consents::decode(told[i])).encode(); });
    }
    round.end_phase(phase);
    loop.join();
  }

  /// Waits for the next attempt, and makes the sites for it.
  void get_terms() {
    const auto terms = round.ready(kSites[0], offer, number, kPatience, [] { return false; });
    REQUIRE(terms);
    values = terms->agreement.values;
    number = static_cast<std::int64_t>(terms->agreement.round);
    sites.clear();
    for (std::uint32_t i = 0; i < kSites.size(); ++i)
      sites.emplace_back(terms->agreement, i,
                         Identity{[this, i](ByteView message) { return sign(kits[i], message); },
                                  [this](std::uint32_t site, ByteView message, ByteView signature) {
                                    return is_signed(kits[site].certificate, message, signature);
                                  }},
                         random);
  }

  SecureRound::Answer send(std::size_t site, Phase phase, const std::vector<std::byte>& body,
                           double seconds = 0) {
    return round.exchange(kSites[site], number, phase, text_of(body), seconds, [] { return false; });
  }
  /// Sends make(i) for each site i from `first` on, and ends the phase. Returns the answers, by site.
  std::vector<Bytes> exchange(Phase phase, std::size_t first, auto make) {
    std::vector<Bytes> bodies(kSites.size()), told(kSites.size());
    for (std::size_t i = first; i < kSites.size(); ++i) send(i, phase, bodies[i] = make(i));
    if (first > 0) round.end_phase(phase);
    for (std::size_t i = first; i < kSites.size(); ++i) told[i] = send(i, phase, bodies[i], kPatience).body;
    return told;
  }
  void upload(std::size_t site, const Bytes& masked, const std::function<void()>& meanwhile = {}) {
    const auto file = round.begin_upload(kSites[site], number, digest_of(masked));
    file->append(0, text_of(masked), chunk_checksum(text_of(masked)));
    file->finish(meanwhile);
  }
  /// Runs the first two phases with all sites. Returns the shares that each site is sent.
  std::vector<Bytes> deliveries() {
    const auto rosters =
        exchange(Phase::advertise, 0, [&](std::size_t i) { return sites[i].advertise().encode(); });
    return exchange(Phase::share, 0,
                    [&](std::size_t i) { return sites[i].share(Roster::decode(rosters[i])).encode(); });
  }
  Bytes masked(std::size_t site, const Bytes& delivery) {
    return sites[site]
        .mask(SharesDelivery::decode(delivery), std::vector<std::int64_t>(kElements, 5))
        .encode();
  }
  std::size_t files() const {
    const std::filesystem::recursive_directory_iterator all(folder.path() + "/masked");
    return static_cast<std::size_t>(
        std::count_if(begin(all), end(all), [](const auto& entry) { return entry.is_regular_file(); }));
  }

  std::int64_t begun = std::time(nullptr);
  TemporaryDirectory folder;
  Database database{":memory:"};
  RoundBoard board{folder.path(), database};
  std::string said;
  Clock::time_point said_at;  // the last of it
  SecureRound round;
  Kits kits;
  std::vector<ReceivedUpdate> ready;
  UpdateOffer offer;
  SystemRandom random;
  std::int64_t number = 0;
  std::string values;
  std::function<void()> meanwhile = {};  // while the first attempt's sum is unmasked
  std::atomic<bool> is_full{false};      // the disk
  std::size_t sum_survivors = 0;
  std::vector<secure_aggregation::Site> sites;
  std::jthread loop;
};

}  // namespace

TEST_CASE("SecureRound: sums without room for their noise are refused, and attempts pause") {
  SecureOptions options{.enabled = true,
                        .federation = "test",
                        .width = 2,
                        .privacy = {.unit = RoundPrivacy::Unit::site, .noise_multiplier = 1}};
  constexpr std::uint64_t kMany = 1'000'000;
  CHECK_THROWS_WITH(check_sums(options, kMany, 10), Contains("the updates of 10 sites is possible: secure "
                                                             "aggregation: in words of 2 bytes, rounding"));
  options.width = 4;
  CHECK_NOTHROW(check_sums(options, kMany, 10));
  options.width = 2;

  const TemporaryDirectory folder;
  Database database{":memory:"};
  RoundBoard board{folder.path(), database};
  std::string said;
  SecureRound round(folder.path(), database, board, options, [&](const std::string& text) { said += text; });
  std::vector<ReceivedUpdate> ready(kSites.size());
  for (std::size_t i = 0; i < ready.size(); ++i) ready[i].site = kSites[i];
  const Clock::time_point began = Clock::now();
  CHECK_FALSE(round.attempt(kWork, kMany, ready));
  CHECK(seconds_since(began) >= 1);
  CHECK_THAT(said, Contains("the attempt at its sum failed: secure aggregation: in words of 2 bytes"));
  std::jthread stop([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    round.stop();
  });
  CHECK_FALSE(round.attempt(kWork, kMany, ready));
  CHECK(seconds_since(began) < 3);  // the second pause would be two seconds
}

TEST_CASE("sum_values depends on the clip norm, the weights and the noise") {
  const RoundPrivacy noise{.unit = RoundPrivacy::Unit::site, .noise_multiplier = 1};
  const std::string values = sum_values(kWork, 10, 0, noise);
  CHECK(sum_values(kWork, 10, 0, noise) == values);
  CHECK(sum_values(kWork, 9, 0, noise) != values);
  CHECK(sum_values(kWork, 10, 5, noise) != values);
  CHECK(sum_values(kWork, 10, 0, {}) != values);
}

TEST_CASE("sum_values depends on the whole work of a round and its model") {
  std::vector<RoundWork> works(11, kWork);
  works[1].round = 1;
  works[2].rounds = 2;
  works[3].model_sha256 = "of no round";
  works[4].local_steps = 1;
  works[5].rules.proximal = 0.5;
  works[6].rules.control_variate = true;
  works[7].sharing = {{"*.norm.*", Sharing::kept_private}};
  works[8].sharing = {{"*.norm.*", Sharing::shared}};
  works[9].sharing = {{"a", Sharing::shared}, {"b", Sharing::shared}};
  works[10].sharing = {{"a shared 1:b", Sharing::shared}};
  std::set<std::string> values;
  for (const RoundWork& work : works) values.insert(sum_values(work, 10, 0, {}));
  CHECK(values.size() == works.size());
  works[5].rules.control_variate = true;
  CHECK(
      sum_values(works[5], 10, 0, {}) ==  // what sites of other versions sign
      "round 0 of 1 model of a round steps 2 proximal 0x1p-1 control true clip 0x1.4p+3 examples 0x0p+0 unit "
      "none clip 0x1p+0 rate 0x1p+0 noise 0x0p+0");
}

TEST_CASE("SecureRound: a site with a wrong signature drops out and the others go on") {
  const bool at_consent = GENERATE(false, true);
  StartedRound test({.unit = RoundPrivacy::Unit::site, .noise_multiplier = 1});
  if (!at_consent) {
    Advertisement forged = test.sites[0].advertise();
    forged.signature[10] ^= std::byte{1};
    CHECK_THROWS_AS(test.send(0, Phase::advertise, forged.encode()), SiteMistake);
  }
  const std::size_t first = at_consent ? 0 : 1;
  const auto rosters = test.exchange(Phase::advertise, first,
                                     [&](std::size_t i) { return test.sites[i].advertise().encode(); });
  CHECK(Roster::decode(rosters[1]).sites.size() == kSites.size() - first);
  const auto deliveries = test.exchange(Phase::share, first, [&](std::size_t i) {
    return test.sites[i].share(Roster::decode(rosters[i])).encode();
  });
  for (std::size_t i = first; i < kSites.size(); ++i) {
    const Bytes masked =
        test.sites[i]
            .mask(SharesDelivery::decode(deliveries[i]), std::vector<std::int64_t>(kElements, 5))
            .encode();
    if (i == 1) {  // a site may begin several uploads, and one is kept
      for (const char begun : {'a', 'b'}) {
        const std::string other(100, begun);
        test.round.begin_upload(kSites[i], test.number, digest_of(std::as_bytes(std::span(other))))
            ->append(0, other, chunk_checksum(other));
      }
      CHECK(test.files() == 1);
    }
    test.upload(i, masked);
  }
  const auto survivors = test.exchange(Phase::mask, first, [](std::size_t) { return Bytes(); });
  CHECK(test.round.epsilon() == 0);
  const auto consent = [&](std::size_t i) { return test.sites[i].consent(Survivors::decode(survivors[i])); };
  if (at_consent) {
    Consent forged = consent(0);
    forged.signature[10] ^= std::byte{1};
    CHECK_THROWS_AS(test.send(0, Phase::consent, forged.encode()), SiteMistake);
  }
  const auto consents = test.exchange(Phase::consent, 1, [&](std::size_t i) { return consent(i).encode(); });
  // The sum counts as spent once the sites are asked to unmask it. epsilon(n) includes n future sums.
  CHECK(test.round.unmasked_in(0, 9) == 1);
  CHECK(test.round.unmasked_in(1, 9) == 0);
  const double one = epsilon_of({1, 1, 1}, 1e-5, kAccountant);
  CHECK(test.round.unmasked(0));
  CHECK(test.round.epsilon() == Approx(one));
  CHECK(test.round.epsilon(2) == Approx(epsilon_of({1, 1, 3}, 1e-5, kAccountant)));
  for (std::size_t i = 1; i < kSites.size(); ++i)
    test.send(i, Phase::unmask, test.sites[i].unmask(Consents::decode(consents[i])).encode());
  test.loop.join();
  CHECK_FALSE(std::filesystem::exists(test.folder.path() + "/masked"));
  CHECK(test.said.find(at_consent ? "east is gone at consenting" : "east is gone at advertising") !=
        std::string::npos);

  SecureRound other(test.folder.path(), test.database, test.board,
                    {.enabled = true,
                     .federation = "test",
                     .privacy = {.unit = RoundPrivacy::Unit::site, .noise_multiplier = 4, .delta = 1e-6}},
                    [](const auto&) {});
  CHECK(std::isfinite(other.epsilon(1)));
  const RoundPrivacy had = other.privacy_of(0).value();  // as recorded, not the current options
  CHECK((had.unit == RoundPrivacy::Unit::site && had.noise_multiplier == 1 && had.delta == 1e-5));
  CHECK(other.epsilon(had) == Approx(one));
  CHECK_FALSE(other.privacy_of(1));
  CHECK(other.epsilon(1) > one);  // the first sum had less noise than the second
  test.database.run(
      "INSERT INTO secure_attempts(round, unmasked) VALUES(1, 1)");  // no noise is recorded for it
  CHECK(std::isinf(other.epsilon(1)));
}

TEST_CASE("SecureRound: unmasked rounds are counted once each, within bounds") {
  const TemporaryDirectory folder;
  Database database(":memory:");
  RoundBoard board{folder.path(), database};
  const SecureRound round(folder.path(), database, board, {.federation = "test"}, [](const std::string&) {});
  database.run("INSERT INTO secure_attempts(round, unmasked) VALUES(1, 1), (1, 1), (2, 0), (3, 1)");
  CHECK(round.unmasked_in(0, 4) == 2);
  CHECK(round.unmasked_in(1, 2) == 1);
  CHECK(round.unmasked_in(3, 3) == 0);  // the lost sum of a round that there is not to be
}

TEST_CASE("SecureRound: a site with other settings is told to start again") {
  StartedRound test;
  Advertisement other = test.sites[0].advertise();
  other.context[0] ^= std::byte{1};
  CHECK_THROWS_WITH(test.send(0, Phase::advertise, other.encode()), Catch::Contains("start the site again"));
  CHECK_THROWS_AS(test.send(0, Phase::advertise, other.encode()), SiteMistake);
}

TEST_CASE("SecureRound: other sites are served while a masked update is added") {
  StartedRound test;
  const auto deliveries = test.deliveries();
  std::vector<Bytes> masked;
  for (std::size_t i = 0; i < kSites.size(); ++i) masked.push_back(test.masked(i, deliveries[i]));
  using State = SecureRound::Answer::State;
  test.upload(1, masked[1], [&] {
    CHECK(test.round.begin_upload(kSites[1], test.number, digest_of(masked[1])) == nullptr);
    for (const std::size_t other : {0, 2, 3}) test.upload(other, masked[other]);
    // All updates have arrived, but this one is not yet in the sum.
    CHECK(test.send(0, Phase::mask, {}, 0.1).state == State::not_yet);
  });
  const auto survivors = test.send(0, Phase::mask, {}, kPatience);
  REQUIRE(survivors.state == State::here);
  CHECK(Survivors::decode(survivors.body).sites.size() == kSites.size());
  // An update that arrived is not requested again after its phase.
  CHECK(test.round.begin_upload(kSites[1], test.number, digest_of(masked[1])) == nullptr);
}

// An attempt in which the first site seals shares that nobody can open. Returns when it is over.
void cheat(StartedRound& test) {
  const auto rosters =
      test.exchange(Phase::advertise, 0, [&](std::size_t i) { return test.sites[i].advertise().encode(); });
  const auto deliveries = test.exchange(Phase::share, 0, [&](std::size_t i) {
    SharesUpload upload = test.sites[i].share(Roster::decode(rosters[i]));
    if (i == 0)
      for (SealedShares& shares : upload.shares) shares.sealed[0] ^= std::byte{1};
    return upload.encode();
  });
  for (std::size_t i = 0; i < kSites.size(); ++i) test.upload(i, test.masked(i, deliveries[i]));
  test.loop.join();
}

TEST_CASE("SecureRound: a site whose shares nobody can open is named, and left out of the next attempt") {
  StartedRound test;
  cheat(test);
  CHECK_THAT(test.said, Catch::Contains("'east' and 'north', 'east' and 'south', 'east' and 'west'"));
  CHECK_THAT(test.said, Catch::Contains("warning: round 1: east sent false shares"));
  CHECK_FALSE(test.round.unmasked(0));
  test.loop = std::jthread([&] { test.round.attempt(kWork, kElements, test.ready); });
  test.offer.certificate = test.kits[1].certificate;
  const auto next = test.round.ready(kSites[1], test.offer, test.number, kPatience, [] { return false; });
  REQUIRE(next);
  CHECK(next->agreement.sites == std::vector<std::string>{"north", "south", "west"});
}

TEST_CASE("SecureRound: if too few are ready, only sites that are left out are said to be") {
  StartedRound test;
  const bool cheated = GENERATE(false, true);
  if (cheated) cheat(test);
  test.round.stop();  // without a pause
  if (!cheated) test.loop.join();
  test.ready.resize(cheated ? 3 : 2);  // the others are late
  CHECK_FALSE(test.round.attempt(kWork, kElements, test.ready));
  CHECK_THAT(
      test.said,
      Contains(cheated
                   ? "2 sites are ready, without east (the log says why), and federation.quorum is "
                     "3. If no other site is to come, provision the federation anew without these, or"
                   : "2 sites are ready, and federation.quorum is 3. If no other site is to come, start"));
  CHECK_THAT(test.said, Contains("lower federation.quorum, and the sites with a lower "
                                 "site.least_sites, if their owners agree"));
}

TEST_CASE("SecureRound: a false share is attributed also if all sites must stay") {
  StartedRound test({}, 4);
  const auto rosters =
      test.exchange(Phase::advertise, 0, [&](std::size_t i) { return test.sites[i].advertise().encode(); });
  const auto deliveries = test.exchange(Phase::share, 0, [&](std::size_t i) {
    SharesUpload upload = test.sites[i].share(Roster::decode(rosters[i]));
    if (i == 0) upload.shares[0].sealed[0] ^= std::byte{1};
    return upload.encode();
  });
  for (std::size_t i = 0; i < kSites.size(); ++i) {
    test.upload(i, test.masked(i, deliveries[i]));
    CHECK(test.sites[i].has_masked() == (i != 1));
  }
  test.loop.join();
  CHECK_THAT(test.said, Catch::Contains("said to be so, between sites 'east' and 'north'\n"));
  CHECK_THAT(test.said, !Catch::Contains("is gone"));
}

TEST_CASE("SecureRound: attempts pause if one site that is needed is gone again and again") {
  const Phase phase = GENERATE(Phase::mask, Phase::consent, Phase::unmask);
  StartedRound test({}, 4);
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (attempt > 0) test.begin_again();
    test.fail_without({"west"}, phase);
    CHECK_THAT(test.said, Contains(phase == Phase::mask      ? "west is gone at sending masked updates"
                                   : phase == Phase::consent ? "west is gone at consenting"
                                                             : "west is gone at unmasking"));
    CHECK((test.said.find("attempts failed because west did not stay to the end, and a sum needs it") !=
           std::string::npos) == (attempt == 1));
  }
  CHECK_THAT(test.said, Contains("the next one begins after 1 s"));
  CHECK(seconds_since(test.said_at) >= 1);
  CHECK(test.round.unmasked(0) == (phase == Phase::unmask));
}

TEST_CASE("SecureRound: a site gone at consent again and again is left out if it can be") {
  StartedRound test;
  test.fail_without({"south", "west"}, Phase::consent);
  test.begin_again();
  test.fail_without({"north", "west"}, Phase::consent);
  CHECK_THAT(test.said, !Contains("begins after"));
  test.start_attempt();
  const auto next = test.round.ready(kSites[0], test.offer, test.number, kPatience, [] { return false; });
  REQUIRE(next);
  CHECK(next->agreement.sites == std::vector<std::string>{"east", "north", "south"});
  CHECK_THAT(test.said, Contains("left out of sums: west because attempts failed when it was gone"));
}

TEST_CASE("SecureRound: other sites are served while the sum is unmasked") {
  StartedRound test;
  bool answered = false, begun = true;
  std::future<void> calls;
  std::future_status served{};
  test.meanwhile = [&] {
    calls = std::async(std::launch::async, [&] {
      answered = test.send(0, Phase::consent, {}).state == SecureRound::Answer::State::here;
      begun = test.round.ready(kSites[0], test.offer, test.number, 0, [] { return false; }).has_value();
      test.round.stop();
    });
    served = calls.wait_for(std::chrono::duration<double>(kPatience));
  };
  const auto deliveries = test.deliveries();
  for (std::size_t i = 0; i < kSites.size(); ++i) test.upload(i, test.masked(i, deliveries[i]));
  const auto survivors = test.exchange(Phase::mask, 0, [](std::size_t) { return Bytes(); });
  const auto consents = test.exchange(Phase::consent, 0, [&](std::size_t i) {
    return test.sites[i].consent(Survivors::decode(survivors[i])).encode();
  });
  for (std::size_t i = 0; i < kSites.size(); ++i)
    test.send(i, Phase::unmask, test.sites[i].unmask(Consents::decode(consents[i])).encode());
  test.loop.join();
  calls.wait();  // if they were not served before, they are now
  CHECK((served == std::future_status::ready && answered && !begun));
  CHECK(test.sum_survivors == kSites.size());
}

TEST_CASE("SecureRound: without room for its result a sum is not unmasked, and no attempt begins") {
  StartedRound test;
  const auto deliveries = test.deliveries();
  for (std::size_t i = 0; i < kSites.size(); ++i) test.upload(i, test.masked(i, deliveries[i]));
  const auto survivors = test.exchange(Phase::mask, 0, [](std::size_t) { return Bytes(); });
  test.is_full = true;
  const auto consent = [&](std::size_t i) {
    return test.sites[i].consent(Survivors::decode(survivors[i])).encode();
  };
  std::vector<Bytes> bodies;
  for (std::size_t i = 0; i < kSites.size(); ++i)
    test.send(i, Phase::consent, bodies.emplace_back(consent(i)));
  CHECK(test.send(0, Phase::consent, bodies[0], 0.05).state == SecureRound::Answer::State::not_yet);
  CHECK_FALSE(test.round.unmasked(0));
  test.is_full = false;
  for (std::size_t i = 0; i < kSites.size(); ++i)
    test.send(i, Phase::unmask,
              test.sites[i]
                  .unmask(Consents::decode(test.send(i, Phase::consent, bodies[i], kPatience).body))
                  .encode());
  test.loop.join();
  CHECK(test.sum_survivors == kSites.size());
  CHECK_THAT(test.said,
             Contains("warning: round 1: the disk is full; its sum is unmasked once there is room"));

  test.is_full = true;
  test.round.stop();  // so that it does not pause
  test.start_attempt();
  test.loop.join();
  CHECK_THAT(test.said, Contains("the attempt at its sum failed: the disk is full"));
}

TEST_CASE("SecureRound: stop() waits until a masked update is added") {
  StartedRound test;
  const auto deliveries = test.deliveries();
  test.upload(1, test.masked(1, deliveries[1]), [&] { test.round.stop(); });
  test.loop.join();
  CHECK_FALSE(std::filesystem::exists(test.folder.path() + "/masked"));
}

TEST_CASE("SecureRound: invalid messages are the site's mistake and late ones are not") {
  StartedRound test;
  const auto refused = [&](std::size_t site, Phase phase, const Bytes& body) {
    CAPTURE(static_cast<int>(phase));
    CHECK_THROWS_AS(test.send(site, phase, body), SiteMistake);
  };
  const auto refused_file = [&](const Bytes& body) { CHECK_THROWS_AS(test.upload(0, body), SiteMistake); };
  for (const Phase phase : {Phase::share, Phase::mask, Phase::consent, Phase::unmask})  // later phases
    refused(0, phase, {});
  const Bytes junk(40, std::byte{1});
  const auto from_other = [](auto message) {
    message.sender ^= 1;
    return message.encode();
  };
  const auto of_other_round = [](auto message) {
    message.context[0] ^= std::byte{1};
    return message.encode();
  };

  const Advertisement keys = test.sites[0].advertise();
  Advertisement of_low_order = keys;
  of_low_order.masking_key = {};
  of_low_order.signature = sign(test.kits[0], of_low_order.signed_text());
  for (const Bytes& wrong : {junk, from_other(keys), of_other_round(keys), of_low_order.encode()})
    refused(0, Phase::advertise, wrong);
  std::vector<Bytes> advertised{keys.encode()};
  for (std::size_t i = 1; i < kSites.size(); ++i) advertised.push_back(test.sites[i].advertise().encode());
  const auto rosters = test.exchange(Phase::advertise, 0, [&](std::size_t i) { return advertised[i]; });

  std::vector<SharesUpload> shares;
  for (std::size_t i = 0; i < kSites.size(); ++i)
    shares.push_back(test.sites[i].share(Roster::decode(rosters[i])));
  SharesUpload too_few = shares[0];
  too_few.shares.pop_back();
  for (const Bytes& wrong : {junk, from_other(shares[0]), of_other_round(shares[0]), too_few.encode()})
    refused(0, Phase::share, wrong);
  const auto deliveries = test.exchange(Phase::share, 0, [&](std::size_t i) { return shares[i].encode(); });

  std::vector<MaskedInput> masked;
  for (std::size_t i = 0; i < kSites.size(); ++i)
    masked.push_back(MaskedInput::decode(test.masked(i, deliveries[i])));
  MaskedInput longer = masked[0];
  longer.packed.resize(longer.packed.size() + 4);
  for (const Bytes& wrong :
       {Bytes(3), junk, from_other(masked[0]), of_other_round(masked[0]), longer.encode(), Bytes(1000)})
    refused_file(wrong);
  for (std::size_t i = 0; i < kSites.size(); ++i) test.upload(i, masked[i].encode());
  const auto survivors = test.exchange(Phase::mask, 0, [](std::size_t) { return Bytes(); });

  const Consent consent = test.sites[0].consent(Survivors::decode(survivors[0]));
  for (const Bytes& wrong : {junk, from_other(consent), of_other_round(consent)})
    refused(0, Phase::consent, wrong);
  std::vector<Bytes> consented{consent.encode()};
  for (std::size_t i = 1; i < kSites.size(); ++i)
    consented.push_back(test.sites[i].consent(Survivors::decode(survivors[i])).encode());
  const auto consents = test.exchange(Phase::consent, 0, [&](std::size_t i) { return consented[i]; });

  const Unmasking unmasking = test.sites[0].unmask(Consents::decode(consents[0]));
  Unmasking of_fewer = unmasking;
  of_fewer.parts.pop_back();
  for (const Bytes& wrong : {junk, from_other(unmasking), of_other_round(unmasking), of_fewer.encode()})
    refused(0, Phase::unmask, wrong);
  using State = SecureRound::Answer::State;
  CHECK(test.send(0, Phase::unmask, unmasking.encode()).state == State::here);
  CHECK(test.send(0, Phase::share, junk).state == State::here);  // an earlier phase's answer is repeated
  CHECK_THROWS_AS(test.round.begin_upload(kSites[0], test.number + 1, digest_of(junk)), RoundOver);
}

// In which order a site records what an update spends, sends it, and forgets it.
#include "recipes/federated/accounted_delivery.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "tests/data/full_disk.h"
#include "tests/data/temporary_directory.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;
using Spend = std::function<void()>;

// A connection that does in deliver() what a test says.
struct FakeTransport final : SiteTransport {
  SiteRound next() override { return {}; }
  bool deliver(const SiteRound& round, const SiteUpdateFile&, double, const std::vector<double>&,
               const std::map<std::string, double>&, const Spend& spend) override {
    delivered.push_back(round);
    return exchange(spend);
  }

  std::vector<SiteRound> delivered;
  std::function<bool(const Spend&)> exchange = [](const Spend& spend) { return spend(), true; };
};

struct DeliveryFixture {
  TemporaryDirectory folder;
  std::filesystem::path ledger = folder.path() + "/privacy.sqlite";
  FakeTransport site;
  std::vector<std::string> lines;
  std::optional<AccountedDelivery> delivery;
  SiteRound round{.round = 4, .rounds = 9, .model = {}, .digest = {}, .sharing = {}};
  WaitingUpdate update;

  // For rounds whose updates get noise when they are sent, or get none.
  void begin(const RoundPrivacy& rounds, double epsilon = 100) {
    const std::filesystem::path file = folder.write("update.f32", "some numbers");
    update.round = update.turn = 3;
    update.file = file;
    update.digest = digest_of(file);
    if (!rounds.is_on()) update.spend = "the update's digest";
    delivery.emplace(site, folder.path(), rounds, "ward",
                     [&](const std::string& line) { lines.push_back(line); });
    open(ledger, epsilon);
    update.save();
  }
  void open(const std::filesystem::path& file, double epsilon = 100) {
    delivery->open_ledger(site_ledger_file(folder.path(), file), update.spend.empty() ? "site" : "record",
                          {epsilon, 1e-5});
  }
  void send() { delivery->send(update, round, PrivacyEvent{1, 1, 1}); }
  // What another process would find in a copy of the ledger, without other files, if this one were killed
  // now.
  std::vector<PrivacySpend> on_disk(const std::string& unit) const {
    const TemporaryDirectory copy;
    std::filesystem::copy_file(ledger, copy.path() + "/privacy.sqlite");
    return PrivacyLedger(copy.path() + "/privacy.sqlite", unit, {100, 1e-5}).spends();
  }
  bool is_waiting() const { return WaitingUpdate::find(folder.path(), 3, "", std::nullopt).has_value(); }
};

const RoundPrivacy kNoisy{.unit = RoundPrivacy::Unit::site, .noise_multiplier = 1};

TEST_CASE_METHOD(DeliveryFixture,
                 "a noisy update's spend is on disk before it is sent, and it is sent once") {
  begin(kNoisy);
  site.exchange = [&](const Spend& spend) {
    CHECK(on_disk("site").empty());
    spend();
    const auto spends = on_disk("site");
    REQUIRE(spends.size() == 1);
    CHECK((spends[0].run == "ward" && spends[0].round == 3));
    return true;
  };
  send();
  REQUIRE(site.delivered.size() == 1);
  CHECK((site.delivered[0].round == 3 && site.delivered[0].rounds == 9));
  CHECK_FALSE(is_waiting());
  CHECK_THAT(lines.back(), Contains("round 4 of 9: delivered"));
}

TEST_CASE_METHOD(DeliveryFixture, "an update that has its noise is recorded before it is sent, and once") {
  begin({});
  site.exchange = [&](const Spend& spend) -> bool {
    CHECK(on_disk("record").size() == 1);
    spend();  // nothing
    fail("the coordinator is gone");
  };
  CHECK_THROWS_WITH(send(), Contains("is gone"));
  CHECK(is_waiting());
  site.exchange = [](const Spend&) { return true; };
  send();
  CHECK(on_disk("record").size() == 1);  // the same bytes reveal nothing new
  CHECK(is_waiting());                   // a coordinator that was killed may ask for it again
}

TEST_CASE_METHOD(DeliveryFixture, "a noisy update whose delivery failed after its spend is spent anew") {
  begin(kNoisy);
  site.exchange = [](const Spend& spend) -> bool {
    spend();
    fail("the coordinator is gone");
  };
  CHECK_THROWS_WITH(send(), Contains("is gone"));
  CHECK(on_disk("site").size() == 1);
  site.exchange = [](const Spend& spend) { return spend(), true; };
  send();
  const auto spends = on_disk("site");
  REQUIRE(spends.size() == 2);
  CHECK(spends[0].digest != spends[1].digest);
  CHECK(std::ranges::any_of(lines, [](const std::string& line) {
    return line.starts_with("warning: round 4: privacy has now been spent for it 2 times");
  }));
}

TEST_CASE_METHOD(DeliveryFixture, "an update of sampled units is forgotten before it is sent") {
  begin({.unit = RoundPrivacy::Unit::site, .rate = 0.5, .noise_multiplier = 1});
  site.exchange = [&](const Spend& spend) {
    CHECK(is_waiting());
    spend();
    CHECK_FALSE(is_waiting());
    throw Interrupted();
    return false;
  };
  send();
  CHECK(on_disk("site").size() == 1);
}

TEST_CASE_METHOD(DeliveryFixture, "nothing is sent if the spend cannot be recorded") {
  const bool noisy = GENERATE(false, true);
  begin(noisy ? kNoisy : RoundPrivacy());
  bool sent = false;
  site.exchange = [&](const Spend& spend) {
    spend();
    sent = true;
    return true;
  };
  {
    const FileSizeLimit full(4096);  // a page of the ledger
    CHECK_THROWS_WITH(send(), Contains("privacy.sqlite"));
  }
  CHECK_FALSE(sent);
  CHECK(on_disk(noisy ? "site" : "record").empty());
  CHECK(is_waiting());
}

TEST_CASE_METHOD(DeliveryFixture, "nothing is spent if it cannot be noted that it was") {
  const bool noisy = GENERATE(false, true);
  begin(noisy ? kNoisy : RoundPrivacy());
  const std::filesystem::path hindrance = folder.path() + "/spent.txt.tmp";
  std::filesystem::create_directory(hindrance);
  CHECK_THROWS_WITH(send(), Contains("spent.txt"));
  CHECK(on_disk(noisy ? "site" : "record").empty());
  CHECK(is_waiting());
  std::filesystem::remove(hindrance);
  send();
  CHECK(on_disk(noisy ? "site" : "record").size() == 1);
  CHECK_NOTHROW(open(ledger));
}

TEST_CASE_METHOD(DeliveryFixture, "an update above the budget is not offered to the coordinator") {
  const bool noisy = GENERATE(false, true);
  begin(noisy ? kNoisy : RoundPrivacy(), 0.1);
  CHECK_THROWS_AS(send(), BudgetExceeded);
  CHECK(site.delivered.empty());
  CHECK(on_disk(noisy ? "site" : "record").empty());
}

TEST_CASE_METHOD(DeliveryFixture, "a model with parameters trained without noise has no finite epsilon") {
  const bool noisy = GENERATE(false, true);
  begin(noisy ? kNoisy : RoundPrivacy());
  send();
  const PrivacyMark shared = delivery->mark(false).value(), all = delivery->mark(true).value();
  CHECK(shared.epsilon == Approx(epsilon_of({1, 1, 1}, 1e-5, kAccountant)));
  CHECK(shared.delta == 1e-5);
  if (!noisy) {  // a site that hides its records trains all parameters with noise
    CHECK(all == shared);
    return;
  }
  CHECK((std::isinf(all.epsilon.value()) && all.unit == "site" && !all.delta));
  CHECK_THAT(all.scope, Contains("the shared parameters only; what the site kept was trained without noise"));
}

TEST_CASE_METHOD(DeliveryFixture, "another ledger, or an older copy, is refused where privacy was spent") {
  begin(kNoisy);
  const auto elsewhere = [&](const char* name) { return std::filesystem::path(folder.path()) / name; };
  const auto copy = [&](const char* name) { std::filesystem::copy_file(ledger, elsewhere(name)); };
  copy("empty.sqlite");
  send();
  copy("older.sqlite");
  // A kill between the ledger's record and the note leaves the note of an earlier spend.
  const std::filesystem::path note = elsewhere("spent.txt");
  const std::string before = bytes_of(note);
  send();
  copy("newest.sqlite");
  { const PrivacyLedger other(elsewhere("other.sqlite"), "site", {100, 1e-5}); }
  for (const char* name : {"empty.sqlite", "older.sqlite", "other.sqlite"})
    CHECK_THROWS_WITH(open(elsewhere(name)),
                      Contains(std::string(name) + ": this is another ledger, or an older copy") &&
                          Contains("tells of") && Contains("begin in another site.directory"));
  CHECK_NOTHROW(open(elsewhere("newest.sqlite")));
  // So is one for another unit, which PrivacyLedger's message therefore offers with another folder only.
  CHECK_THROWS_WITH(delivery->open_ledger(elsewhere("client.sqlite"), "client", {100, 1e-5}),
                    Contains("client.sqlite: this is another ledger"));
  folder.write("spent.txt", before);
  CHECK_NOTHROW(open(elsewhere("newest.sqlite")));
  CHECK_NOTHROW(open(elsewhere("older.sqlite")));
  CHECK_THROWS_WITH(open(elsewhere("empty.sqlite")), Contains("another ledger"));
  for (const std::string& damaged : {ledger.string() + "\n", before + before, std::string()}) {
    folder.write("spent.txt", damaged);
    CHECK_THROWS_WITH(open(elsewhere("newest.sqlite")),
                      Contains("spent.txt: it has " + std::string(damaged == before + before ? "2" : "0")));
  }
}

TEST_CASE("a missing ledger is refused in a folder that says that privacy was spent there") {
  const TemporaryDirectory folder;
  CHECK(site_ledger_file(folder.path(), "") == folder.path() + "/privacy.sqlite");
  for (const char* trace : {"spent.txt", "update.json", "private-00000001.f32"}) {
    const auto file = folder.write(trace, "");
    CHECK_THROWS_WITH(site_ledger_file(folder.path(), ""),
                      Contains(std::string("there were rounds here (") + trace));
    std::filesystem::remove(file);
  }
}

}  // namespace
}  // namespace conclave

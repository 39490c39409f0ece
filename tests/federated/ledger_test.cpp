#include "federated/privacy/ledger.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "tests/data/temporary_directory.h"

namespace conclave {
namespace {

constexpr PrivacyBudget kBudget{3, 1e-5};

PrivacySpend spend_of(std::int64_t round, const std::string& digest = "ab", double noise = 1) {
  return {.run = "ward", .round = round, .digest = digest, .event = {noise, 0.01, 100}};
}

double epsilon_of(std::vector<PrivacyEvent> events, const std::string& by = "pld") {
  const auto accountant = make_accountant(by);
  for (const PrivacyEvent& event : events) accountant->compose(event);
  return accountant->epsilon(kBudget.delta);
}

// Runs `action` in a child process, which reports by writing to a pipe and is killed (-9) once it has written
// `reports` bytes. Returns how many bytes it wrote in all.
template <class Action>
int killed_after(int reports, const Action& action) {
  int ends[2];
  require(pipe(ends) == 0, "no pipe");
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    action([&] { (void)!write(ends[1], "r", 1); });
    for (;;) pause();  // as before a release
  }
  close(ends[1]);
  int written = 0;
  char byte;
  while (written < reports && read(ends[0], &byte, 1) == 1) ++written;
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  while (read(ends[0], &byte, 1) == 1) ++written;
  close(ends[0]);
  return written;
}

}  // namespace

TEST_CASE("PrivacyLedger: recorded spends are composed, also after reopening") {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/ledger";
  {
    PrivacyLedger ledger(path, "record", kBudget);
    CHECK(ledger.epsilon() == 0);
    CHECK(ledger.epsilon_with(spend_of(0).event) == epsilon_of({{1, 0.01, 100}}));
    CHECK(ledger.epsilon() == 0);
    CHECK(ledger.record(spend_of(1)));
    CHECK(ledger.record(spend_of(2, "ab", 1.5)));
  }
  const PrivacyLedger ledger(path, "record", kBudget);
  REQUIRE(ledger.spends().size() == 2);
  CHECK(ledger.spends()[1].event.noise_multiplier == 1.5);
  CHECK(ledger.epsilon() == epsilon_of({{1, 0.01, 100}, {1.5, 0.01, 100}}, "rdp"));
}

TEST_CASE("PrivacyLedger: spends with different noise or rates are counted by rdp") {
  const TemporaryDirectory directory;
  PrivacyLedger ledger(directory.path() + "/ledger", "record", kBudget);
  ledger.record(spend_of(1));
  ledger.record({"ward", 2, "ab", {1, 0.01, 50}});  // other steps, but the same noise and rate
  CHECK(ledger.epsilon() == epsilon_of({{1, 0.01, 150}}));
  const PrivacyEvent more_noise{2, 0.01, 100}, other_rate{1, 0.02, 100};
  CHECK(ledger.epsilon_with(more_noise) == epsilon_of({{1, 0.01, 150}, more_noise}, "rdp"));
  CHECK(ledger.epsilon_with(other_rate) == epsilon_of({{1, 0.01, 150}, other_rate}, "rdp"));
}

TEST_CASE("PrivacyLedger: the same value counts once, and another one of the round again") {
  const TemporaryDirectory directory;
  PrivacyLedger ledger(directory.path() + "/ledger", "record", kBudget);
  CHECK(ledger.record(spend_of(1)));
  CHECK_FALSE(ledger.record(spend_of(1)));
  CHECK(ledger.epsilon() == epsilon_of({{1, 0.01, 100}}));
  CHECK(ledger.record(spend_of(1, "cd")));
  CHECK(ledger.epsilon() == epsilon_of({{1, 0.01, 200}}));
  CHECK_THROWS_WITH(ledger.record(spend_of(1, "cd", 2)),
                    Catch::Contains("recorded with 100 steps of noise 1"));
  CHECK(ledger.spends().size() == 2);
  CHECK(ledger.count("ward", 1) == 2);
  CHECK((ledger.count("ward", 2) == 0 && ledger.count("other", 1) == 0));
}

TEST_CASE("PrivacyLedger: a spend beyond the budget is refused and not recorded") {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/ledger";
  const double two = epsilon_of({{1, 0.01, 200}});
  {
    PrivacyLedger ledger(path, "record", {two, 1e-5});
    ledger.record(spend_of(1));
    ledger.record(spend_of(2));
    CHECK_THROWS_AS(ledger.record(spend_of(3)), BudgetExceeded);
    CHECK_THROWS_WITH(ledger.record(spend_of(3)), Catch::Contains("round 4 (of the run ward)") &&
                                                      Catch::Contains("nothing was released"));
    CHECK_THROWS_AS(ledger.record(spend_of(4, "ab", 0)), BudgetExceeded);
    CHECK_FALSE(ledger.record(spend_of(2)));  // recorded before, so it may be sent again
    CHECK(ledger.epsilon() == two);
  }
  // A smaller budget counts earlier spends, too.
  PrivacyLedger ledger(path, "record", {two / 2, 1e-5});
  CHECK_THROWS_AS(ledger.record(spend_of(3, "ab", 100)), BudgetExceeded);
}

TEST_CASE("PrivacyLedger: a kill between recording and release keeps the spend") {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/ledger";
  const int reports = killed_after(1, [&](const auto& report) {
    PrivacyLedger ledger(path, "record", kBudget);
    ledger.record(spend_of(7));
    report();
    pause();  // the ledger is still open, and nothing has been sent
  });
  CHECK(reports == 1);
  PrivacyLedger ledger(path, "record", kBudget);
  REQUIRE(ledger.spends().size() == 1);
  CHECK(ledger.spends()[0].round == 7);
  CHECK(ledger.epsilon() == epsilon_of({{1, 0.01, 100}}));
  CHECK(ledger.record(spend_of(7, "drawn anew")));
  CHECK(ledger.epsilon() == epsilon_of({{1, 0.01, 200}}));
}

TEST_CASE("PrivacyLedger: after a kill at any moment all confirmed spends are there") {
  for (const int last : {1, 2, 3, 5, 8, 13}) {
    const TemporaryDirectory directory;
    const std::string path = directory.path() + "/ledger";
    const int reports = killed_after(last, [&](const auto& report) {
      PrivacyLedger ledger(path, "record", {1e6, 1e-5});
      for (std::int64_t round = 0; round < 1000; ++round) {
        ledger.record(spend_of(round, "ab", 40));
        report();
      }
    });
    const PrivacyLedger ledger(path, "record", {1e6, 1e-5});
    const auto recorded = static_cast<int>(ledger.spends().size());
    CHECK(reports >= last);
    CHECK((recorded == reports || recorded == reports + 1));
  }
}

TEST_CASE("PrivacyLedger: a copy of the file alone has all spends") {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/ledger", copy = directory.path() + "/copy";
  killed_after(1, [&](const auto& report) {
    PrivacyLedger ledger(path, "record", kBudget);
    ledger.record(spend_of(1));
    report();
  });
  std::filesystem::copy_file(path, copy);
  CHECK(PrivacyLedger(copy, "record", kBudget).newest() == "ab");
}

TEST_CASE("PrivacyLedger: spends for one unit are refused for another unit") {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/ledger";
  {
    PrivacyLedger ledger(path, "record", kBudget);
    ledger.record(spend_of(1));
  }
  for (const char* other : {"client", "site"})
    CHECK_THROWS_WITH(PrivacyLedger(path, other, kBudget),
                      Catch::Contains("ledger: what was spent hid each record") &&
                          Catch::Contains("unit = \"record\"") &&
                          Catch::Contains("needs another site.directory, too"));
  CHECK(PrivacyLedger(path, "record", kBudget).epsilon() == epsilon_of({{1, 0.01, 100}}));
  // Without spends, the unit may change.
  { const PrivacyLedger ledger(directory.path() + "/empty", "record", kBudget); }
  CHECK(PrivacyLedger(directory.path() + "/empty", "client", kBudget).epsilon() == 0);
}

TEST_CASE("PrivacyLedger: a file of another version is refused") {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/ledger";
  { const PrivacyLedger ledger(path, "client", kBudget); }
  Database(path).run("PRAGMA user_version = 1");
  CHECK_THROWS_WITH(PrivacyLedger(path, "client", kBudget),
                    Catch::Contains("version 1; this program knows version 2"));
}

TEST_CASE("PrivacyLedger: other files, and a ledger in use, are refused") {
  const TemporaryDirectory directory;
  CHECK_THROWS_AS(PrivacyLedger(directory.write("text", std::string(4096, 'x')), "record", kBudget), Error);
  const std::string other = directory.path() + "/other";
  {
    Database database(other);
    database.run("CREATE TABLE things(x)");
  }
  CHECK_THROWS_WITH(PrivacyLedger(other, "record", kBudget), Catch::Contains("no privacy ledger"));
  const std::string path = directory.path() + "/ledger";
  { const PrivacyLedger ledger(path, "record", kBudget); }
  Database owner(path);  // even before it has changed anything
  CHECK_THROWS_WITH(Database(path), Catch::Contains("ledger: database is locked; another process"));
  CHECK_NOTHROW(owner.run("CREATE TABLE things(x)"));
  CHECK_THROWS_WITH(PrivacyLedger(directory.path() + "/new", "record", {1, 0}), Catch::Contains("delta 0"));
}

}  // namespace conclave

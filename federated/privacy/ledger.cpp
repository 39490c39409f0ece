#include "federated/privacy/ledger.h"

#include <algorithm>

#include "federated/privacy/rdp.h"

namespace conclave {
namespace {

constexpr std::int64_t kApplication = 0x436f6e50;  // "ConP", which marks the file as a ledger
constexpr std::int64_t kVersion = 2;
constexpr std::string_view kMechanism = "sampled_gaussian";  // the mechanism of every spend; see PrivacyEvent

std::int64_t pragma(const Database& database, std::string_view name) {
  Statement statement = database.prepare(fmt::format("PRAGMA {}", name));
  return statement.next() ? statement.integer(0) : 0;
}

// Creates the table in an empty file. Otherwise throws Error that states what is wrong with the file.
void prepare(Database& database, const std::string& path, const std::string& unit) {
  Statement check = database.prepare("PRAGMA quick_check");
  check.next();
  require(check.text(0) == "ok",
          "{}: the privacy ledger is damaged ({}); without it nobody knows what was spent. Restore it from a "
          "backup of no earlier than the last release",
          path, check.text(0));
  check.run();
  Transaction transaction(database);
  if (pragma(database, "application_id") == 0) {
    Statement tables = database.prepare("SELECT count(*) FROM sqlite_schema");
    tables.next();
    require(tables.integer(0) == 0, "{}: this is a database, but no privacy ledger", path);
    tables.run();
    database.run(
        "CREATE TABLE spends(place INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, round INTEGER NOT "
        "NULL, "
        "digest TEXT NOT NULL, mechanism TEXT NOT NULL, unit TEXT NOT NULL, noise REAL NOT NULL, rate REAL "
        "NOT NULL, "
        "steps INTEGER NOT NULL, time TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, UNIQUE(run, round, digest)) "
        "STRICT");
    database.run(fmt::format("PRAGMA application_id = {}", kApplication));
    database.run(fmt::format("PRAGMA user_version = {}", kVersion));
  }
  require(pragma(database, "application_id") == kApplication, "{}: this is a database, but no privacy ledger",
          path);
  const std::int64_t version = pragma(database, "user_version");
  require(version == kVersion, "{}: a privacy ledger of version {}; this program knows version {}", path,
          version, kVersion);
  Statement others = database.prepare("SELECT unit FROM spends WHERE unit <> ?1");
  if (others.bind(unit).next())
    fail(
        "{}: what was spent hid each {}, and now each {} is to be hidden: what was spent for two units "
        "cannot be added up. Keep privacy.unit = \"{}\", or agree with the owners of the data on another "
        "budget, in another ledger; a federation's site then needs another site.directory, too",
        path, others.text(0), unit, others.text(0));
  transaction.commit();
}

}  // namespace

PrivacyLedger::PrivacyLedger(const std::string& path, std::string unit, const PrivacyBudget& budget)
    : database_(path), unit_(std::move(unit)), budget_(budget) {
  require(budget.epsilon >= 0 && budget.delta > 0 && budget.delta < 1,
          "privacy: a budget of epsilon {} and delta {}; epsilon is at least 0, and delta between 0 and 1",
          budget.epsilon, budget.delta);
  prepare(database_, path, unit_);
}

std::vector<PrivacySpend> PrivacyLedger::spends() const {
  std::vector<PrivacySpend> all;
  Statement rows = database_.prepare(
      "SELECT run, round, digest, mechanism, noise, rate, steps FROM spends ORDER BY place");
  while (rows.next()) {
    require(rows.text(3) == kMechanism,
            "the privacy ledger has a mechanism {} that this program does not know", rows.text(3));
    all.push_back(
        {rows.text(0), rows.integer(1), rows.text(2), {rows.real(4), rows.real(5), rows.integer(6)}});
  }
  return all;
}

std::int64_t PrivacyLedger::count(const std::string& run, std::int64_t round) const {
  Statement rows = database_.prepare("SELECT count(*) FROM spends WHERE run = ?1 AND round = ?2");
  rows.bind(run, round).next();
  return rows.integer(0);
}

std::string PrivacyLedger::newest() const {
  Statement rows = database_.prepare("SELECT digest FROM spends ORDER BY place DESC LIMIT 1");
  return rows.next() ? rows.text(0) : "";
}

bool PrivacyLedger::has(const std::string& digest) const {
  return database_.prepare("SELECT 1 FROM spends WHERE digest = ?1").bind(digest).next();
}

double PrivacyLedger::epsilon_with(const PrivacySpend* next) const {
  std::vector<PrivacySpend> all = spends();
  if (next) all.push_back(*next);
  // The noise may have been changed because of earlier outputs, and then pld is not proven (accountant.h).
  const bool alike = std::ranges::all_of(all, [&](const PrivacySpend& spend) {
    return spend.event.noise_multiplier == all.front().event.noise_multiplier &&
           spend.event.sampling_rate == all.front().event.sampling_rate;
  });
  const auto accountant = make_accountant(alike ? kAccountant : "rdp");
  for (const PrivacySpend& spend : all) accountant->compose(spend.event);
  return accountant->epsilon(budget_.delta);
}

double PrivacyLedger::epsilon() const { return epsilon_with(nullptr); }

double PrivacyLedger::epsilon_with(const PrivacyEvent& next) const {
  const PrivacySpend spend{.run = "", .digest = "", .event = next};
  return epsilon_with(&spend);
}

void PrivacyLedger::check(const PrivacySpend& spend) const {
  const double epsilon = epsilon_with(&spend);
  if (epsilon > budget_.epsilon)
    throw BudgetExceeded(fmt::format(
        "privacy: round {} (of the run {}) would bring epsilon to {:.4g} at delta {:g}, and the budget is "
        "{:g}; nothing was released. Stop here, or agree with the owners of the data on a larger budget",
        spend.round + 1, spend.run, epsilon, budget_.delta, budget_.epsilon));
}

bool PrivacyLedger::record(const PrivacySpend& spend) {
  require(!spend.run.empty() && !spend.digest.empty(), "privacy ledger: a spend needs a run and a digest");
  const auto& [noise, rate, steps] = spend.event;
  Transaction transaction(database_);
  Statement same = database_.prepare(
      "SELECT noise, rate, steps FROM spends WHERE run = ?1 AND round = ?2 AND digest = ?3");
  if (same.bind(spend.run, spend.round, spend.digest).next()) {
    require(same.real(0) == noise && same.real(1) == rate && same.integer(2) == steps,
            "privacy ledger: round {} of {} was recorded with {} steps of noise {} at rate {}, and the same "
            "value "
            "comes with {} steps of noise {} at rate {}",
            spend.round, spend.run, same.integer(2), same.real(0), same.real(1), steps, noise, rate);
    return false;
  }
  check(spend);
  database_
      .prepare(
          "INSERT INTO spends(run, round, digest, mechanism, unit, noise, rate, steps) "
          "VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
      .bind(spend.run, spend.round, spend.digest, kMechanism, unit_, noise, rate, steps)
      .run();
  transaction.commit();
  return true;
}

}  // namespace conclave

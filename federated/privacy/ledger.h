// What a site has spent of its privacy, in a file that survives a crash at any moment. A spend is on disk
// before the value that it pays for is released. So a crash between the two leaves a spend without a release,
// never a release without a spend.
//
// Every released value counts once. A spend is identified by its run, its round, and a digest of the bytes to
// be released, which include the noise. If the noise is drawn later, a name of its own takes the digest's
// place. Recording the same spend again costs nothing: a site that kept the bytes and sends them once more
// after a crash reveals nothing new. A round that is done again draws new noise, has other bytes, and counts
// again: nobody knows whether the first bytes were released, and an observer of both knows more than from
// either.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "federated/database.h"
#include "federated/privacy/accountant.h"

namespace conclave {

/// A spend would exceed the budget, so training has to end. Nothing was recorded.
class BudgetExceeded : public Error {
 public:
  using Error::Error;
};

struct PrivacySpend {
  std::string run;  ///< for example the federation's and the model's name; not ""
  std::int64_t round = 0;
  std::string digest;  ///< identifies the released bytes, for example their SHA-256 in hexadecimal; not ""
  PrivacyEvent event;
};

class PrivacyLedger {
 public:
  /// Opens the file `path`, or creates it. The budget is for all runs in the file together, because they
  /// concern the same people. `unit`, for example "record", is what neighbouring data sets differ by. Throws
  /// Error if the file is not a ledger, is damaged, is held by another process, or has spends of another
  /// unit. Units cannot be mixed: noise that hid single records hides a person with several records less
  /// well, and noise that hid a person's part hides the presence of one of their records less well.
  PrivacyLedger(const std::string& path, std::string unit, const PrivacyBudget& budget);

  /// Returns when the spend is on disk; only then may the value be released. Returns true, or false if the
  /// spend was already recorded. Throws BudgetExceeded if all spends together would exceed the budget; Error
  /// if the same value was recorded with another event, and as PrivacyAccountant::compose() does. After an
  /// exception nothing is recorded.
  bool record(const PrivacySpend& spend);
  /// Throws BudgetExceeded if the spend, as a new one, would exceed the budget.
  void check(const PrivacySpend& spend) const;

  /// Number of values recorded for a run's round.
  std::int64_t count(const std::string& run, std::int64_t round) const;

  /// The digest of the newest spend; "" if there is none. has() tells another ledger, or an older copy of
  /// this one, by its absence.
  std::string newest() const;
  bool has(const std::string& digest) const;

  /// Epsilon of all that was recorded, at the budget's delta. Computed from privacy loss distributions, or
  /// from Renyi divergences if noise or rate differ between spends, because they may have been chosen
  /// depending on earlier outputs.
  double epsilon() const;
  /// Epsilon of what was recorded and of `next`.
  double epsilon_with(const PrivacyEvent& next) const;
  const std::string& unit() const { return unit_; }
  const PrivacyBudget& budget() const { return budget_; }
  std::vector<PrivacySpend> spends() const;  ///< in the order of recording

 private:
  double epsilon_with(const PrivacySpend* next) const;

  Database database_;
  std::string unit_;
  PrivacyBudget budget_;
};

}  // namespace conclave

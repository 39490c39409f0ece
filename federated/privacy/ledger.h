// What a site has spent of its privacy, in a file that survives being killed at any instant. A spend is on
// the disk before what it pays for is released: a crash between the two leaves a spend without a release,
// never a release without its spend.
//
// What counts: every released value once. A spend is named by its run, its round, and a digest of the bytes
// to be released, noise and all; where the noise is drawn only then, by a name of its own. Recording the same
// name again, as a site does that kept the bytes and sends them once more after a crash, costs nothing, as
// nobody learns from seeing the same twice. A round that is done again draws noise again, has other bytes,
// and counts again: whether the first went out, nobody knows any more, and who has both knows more than from
// either.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "federated/database.h"
#include "federated/privacy/accountant.h"

namespace conclave {

/// A spend would go beyond the budget: training has to end. Nothing was recorded.
class BudgetExceeded : public Error {
 public:
  using Error::Error;
};

enum class PrivacyMechanism {
  sampled_gaussian,  ///< event as PrivacyEvent says
  concentrated,      ///< event bounds Renyi divergences only, as in distributed_gaussian.h: no pld
};

struct PrivacySpend {
  std::string run;  ///< the federation's and the model's name, say; not ""
  std::int64_t round = 0;
  std::string digest;  ///< of the bytes to be released, SHA-256 in hexadecimal, say; not ""
  PrivacyEvent event;
  PrivacyMechanism mechanism = PrivacyMechanism::sampled_gaussian;
};

class PrivacyLedger {
 public:
  /// Opens or makes the file `path`; the budget is of all its runs together, as they tell of the same people.
  /// `unit`, "record" say, is what neighbours differ by. Throws Error where it is no ledger, damaged, held by
  /// another process, or has spends of another unit: noise that hid a record hides less of who has several,
  /// and what hid a person's part hides not as well that one of their records is there.
  PrivacyLedger(const std::string& path, std::string unit, const PrivacyBudget& budget);

  /// Returns when the spend is on the disk; only then may its value be released. True, or false where it had
  /// been before. Throws BudgetExceeded where all spends together would exceed the budget; Error where the
  /// same value was recorded with another event, and what PrivacyAccountant::compose() does. Then nothing is
  /// recorded.
  bool record(const PrivacySpend& spend);
  /// Throws BudgetExceeded where the spend, if it is a new one, could not be recorded.
  void check(const PrivacySpend& spend) const;

  /// How many values of a run's round were recorded.
  std::int64_t count(const std::string& run, std::int64_t round) const;

  /// Of all that was recorded, at the budget's delta; by privacy loss distributions, or by Renyi divergences
  /// where a spend gives no more, or where noise or rate differ: they may have been chosen by what came out.
  double epsilon() const;
  /// Of that and what is yet to come.
  double epsilon_with(const PrivacyEvent& next) const;
  const PrivacyBudget& budget() const { return budget_; }
  std::vector<PrivacySpend> spends() const;  ///< in the order of recording

 private:
  double epsilon_with(const PrivacySpend* next) const;

  Database database_;
  std::string unit_;
  PrivacyBudget budget_;
};

}  // namespace conclave

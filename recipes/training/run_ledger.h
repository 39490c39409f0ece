// The ledger that a recipe may name. Private runs on the same data record in it what they spend, so that
// together they keep within the budget.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "federated/privacy/ledger.h"
#include "parallel/communicator.h"
#include "recipes/settings/recipe.h"
#include "recipes/training/private_training.h"

namespace conclave {

class RunLedger {
 public:
  /// For a run that will have released `steps` steps at its end. If the ledger lacks the steps that were
  /// released before (of a checkpoint trained without it), they are recorded first. All arguments but the
  /// recipe must outlive the object, which locks the ledger's file while it exists. Throws Error if the steps
  /// to come exceed what is left of the budget. Collective.
  RunLedger(const Recipe& recipe, PrivateTraining& privacy, std::int64_t steps, Communicator& world);

  /// A line with the epsilon that earlier runs spent, and with this run's added; "" except on rank 0.
  const std::string& told() const { return told_; }

  /// Records what was released up to step `step`. Call it before a checkpoint is written, so that the record
  /// is on the disk first; it counts even if the checkpoint is then not written. Returns why it failed, or
  /// ""; the same on every rank.
  std::string record(std::int64_t step);

 private:
  void add(const std::string& name, std::int64_t round, std::int64_t steps);

  PrivateTraining& privacy_;
  Communicator& world_;
  std::string run_, told_;
  std::unique_ptr<PrivacyLedger> ledger_;  // on rank 0
  std::int64_t recorded_;                  // steps of this run that the ledger has
};

}  // namespace conclave

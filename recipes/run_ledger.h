// The ledger that a recipe may name. Private runs on the same data record in it what they spend, so that
// together they keep within the budget.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "federated/privacy/ledger.h"
#include "parallel/communicator.h"
#include "recipes/private_training.h"
#include "recipes/recipe.h"

namespace conclave {

class RunLedger {
 public:
  /// For a run that will have released `steps` steps at its end. All arguments but the recipe must outlive
  /// the object. The object locks the ledger's file while it exists. Throws Error if the steps exceed what is
  /// left of the budget. Collective.
  RunLedger(const Recipe& recipe, const PrivateTraining& privacy, std::int64_t steps, RandomSource& random,
            Communicator& world);

  /// What earlier runs spent and what it will be with this run, in a line; "" except on rank 0.
  const std::string& told() const { return told_; }

  /// Records what was released up to step `step`. Call it before a checkpoint is written, so that the record
  /// is on the disk first; it counts even if the checkpoint is then not written. Returns why it failed, or
  /// ""; the same on every rank.
  std::string record(std::int64_t step);

 private:
  const PrivateTraining& privacy_;
  RandomSource& random_;
  Communicator& world_;
  std::string run_, told_;
  std::unique_ptr<PrivacyLedger> ledger_;  // on rank 0
  std::int64_t recorded_;                  // steps that the ledger has, or that were released before this run
};

}  // namespace conclave

// The ledger that a recipe may name, in which private runs on the same data write what they spend: what they
// spent together is within the budget.
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
  /// Of a run that is to have released `steps` steps in the end. All but the recipe must outlive it; the file
  /// is this process's as long as it lives. Throws Error where that is more than the budget leaves it.
  /// Collective.
  RunLedger(const Recipe& recipe, const PrivateTraining& privacy, std::int64_t steps, RandomSource& random,
            Communicator& world);

  /// What it had and will have, in a line; "" but on rank 0.
  const std::string& told() const { return told_; }

  /// Records what was released until step `step`, so that it is on the disk before a checkpoint is; it counts
  /// where that is then not written. Returns why it is not recorded, "" where it is; the same on every rank.
  std::string record(std::int64_t step);

 private:
  const PrivateTraining& privacy_;
  RandomSource& random_;
  Communicator& world_;
  std::string run_, told_;
  std::unique_ptr<PrivacyLedger> ledger_;  // rank 0
  std::int64_t recorded_;                  // steps that are in it, or were before this run
};

}  // namespace conclave

#include "recipes/training/run_ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "core/durable_file.h"

namespace conclave {

RunLedger::RunLedger(const Recipe& recipe, PrivateTraining& privacy, std::int64_t steps, Communicator& world)
    : privacy_(privacy), world_(world), run_(recipe.run.directory), recorded_(privacy.released()) {
  const std::string name = recorded_ > 0 ? privacy.name() : "";
  from_first(world, [&] {
    const std::string& path = recipe.privacy.ledger;
    create_durable_directories(std::filesystem::path(path).parent_path());
    const double budget =
        recipe.privacy.epsilon > 0 ? recipe.privacy.epsilon : std::numeric_limits<double>::infinity();
    // The ledger itself has no limit, because what was spent must be recorded even beyond the budget. The
    // check below covers all steps to come.
    ledger_ = std::make_unique<PrivacyLedger>(
        path, recipe.privacy.unit,
        PrivacyBudget{std::numeric_limits<double>::infinity(), recipe.privacy.delta});
    const bool lacks = recorded_ > 0 &&
                       std::ranges::none_of(ledger_->spends(),
                                            [&](const PrivacySpend& spend) { return spend.digest == name; });
    if (lacks) add(name, recorded_, recorded_);
    const double before = ledger_->epsilon(), after = ledger_->epsilon_with(privacy.event(steps - recorded_));
    require(after <= budget,
            "{}: earlier runs spent an epsilon of {:.4f}, and with the {} steps of this one it would be "
            "{:.4f}, above privacy.epsilon = {}; take fewer steps, or more noise by privacy.noise_multiplier",
            path, before, steps - recorded_, after, recipe.privacy.epsilon);
    told_ = fmt::format(
        "privacy: by {}, earlier runs spent an epsilon of {:.4f}{}; with this one it will be {:.4f}", path,
        before,
        lacks ? fmt::format(
                    ", including the {} steps of the checkpoint, which were missing and are now recorded",
                    recorded_)
              : "",
        after);
    return std::string();
  });
}

std::string RunLedger::record(std::int64_t step) {
  if (privacy_.released() == recorded_) return "";
  const std::string& name = privacy_.name();
  const std::string problem = from_first(world_, [&] {
    try {
      add(name, step, privacy_.released() - recorded_);
      return std::string();
    } catch (const Error& error) {
      return fmt::format("the privacy that its steps spend cannot be recorded: {}", error.what());
    }
  });
  if (problem.empty()) recorded_ = privacy_.released();
  return problem;
}

void RunLedger::add(const std::string& name, std::int64_t round, std::int64_t steps) {
  ledger_->record({.run = run_, .round = round, .digest = name, .event = privacy_.event(steps)});
}

}  // namespace conclave

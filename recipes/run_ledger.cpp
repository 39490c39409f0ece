#include "recipes/run_ledger.h"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <limits>
#include <span>

#include "core/durable_file.h"

namespace conclave {

RunLedger::RunLedger(const Recipe& recipe, const PrivateTraining& privacy, std::int64_t steps,
                     RandomSource& random, Communicator& world)
    : privacy_(privacy),
      random_(random),
      world_(world),
      run_(recipe.run.directory),
      recorded_(privacy.released()) {
  from_first(world, [&] {
    const std::string& path = recipe.privacy.ledger;
    create_durable_directories(std::filesystem::path(path).parent_path());
    const double budget =
        recipe.privacy.epsilon > 0 ? recipe.privacy.epsilon : std::numeric_limits<double>::infinity();
    ledger_ = std::make_unique<PrivacyLedger>(path, recipe.privacy.unit,
                                              PrivacyBudget{budget, recipe.privacy.delta});
    const double before = ledger_->epsilon(), after = ledger_->epsilon_with(privacy.event(steps - recorded_));
    require(after <= budget,
            "{}: earlier runs spent an epsilon of {:.4f}, and with the {} steps of this one it would be "
            "{:.4f}, above privacy.epsilon = {}; take fewer steps, or more noise by privacy.noise_multiplier",
            path, before, steps - recorded_, after, recipe.privacy.epsilon);
    told_ = fmt::format(
        "privacy: by {}, earlier runs spent an epsilon of {:.4f}; with this one it will be {:.4f}", path,
        before, after);
    return std::string();
  });
}

std::string RunLedger::record(std::int64_t step) {
  if (privacy_.released() == recorded_) return "";
  const std::string problem = from_first(world_, [&] {
    try {
      std::array<std::uint64_t, 2> name;  // random, because no two checkpoints have the same noise
      random_.fill(std::as_writable_bytes(std::span(name)));
      ledger_->record({.run = run_,
                       .round = step,
                       .digest = fmt::format("{:016x}{:016x}", name[0], name[1]),
                       .event = privacy_.event(privacy_.released() - recorded_)});
      return std::string();
    } catch (const Error& error) {
      return fmt::format("the privacy that its steps spend cannot be recorded: {}", error.what());
    }
  });
  if (problem.empty()) recorded_ = privacy_.released();
  return problem;
}

}  // namespace conclave

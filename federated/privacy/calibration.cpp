#include "federated/privacy/calibration.h"

#include <algorithm>

#include "core/error.h"

namespace conclave {
namespace {

bool within(const PrivacyBudget& budget, std::string_view accountant,
            const std::vector<PrivacyEvent>& events) {
  const auto spent = make_accountant(accountant);
  for (const PrivacyEvent& event : events) spent->compose(event);
  return spent->epsilon(budget.delta) <= budget.epsilon;
}

}  // namespace

double least_noise(const PrivacyBudget& budget, double sampling_rate, std::int64_t steps,
                   std::string_view accountant) {
  require(budget.epsilon > 0, "privacy: epsilon {} is not above 0; 1 to 8 are usual", budget.epsilon);
  const auto enough = [&](double noise) {
    return within(budget, accountant, {{noise, sampling_rate, steps}});
  };
  constexpr double kLeast = 1e-3, kMost = 1e6;
  double low = kLeast, high = 1;  // `high` is enough, and `low` is not
  if (enough(high)) {
    for (double noise = high / 2; noise > kLeast; noise /= 2) {
      if (!enough(noise)) {
        low = noise;
        break;
      }
      high = noise;
    }
  } else {
    do {
      low = high;
      high *= 2;
      require(high < kMost,
              "privacy: no noise below {} keeps {} steps at rate {} within epsilon {} and delta {}", kMost,
              steps, sampling_rate, budget.epsilon, budget.delta);
    } while (!enough(high));
  }
  while (high > 1.0001 * low) {
    const double middle = (low + high) / 2;
    (enough(middle) ? high : low) = middle;
  }
  return high;
}

std::int64_t most_steps(const PrivacyBudget& budget, double noise_multiplier, double sampling_rate,
                        std::string_view accountant, const std::vector<PrivacyEvent>& before) {
  const auto enough = [&](std::int64_t steps) {
    std::vector<PrivacyEvent> events = before;
    events.push_back({noise_multiplier, sampling_rate, steps});
    return within(budget, accountant, events);
  };
  std::int64_t low = 0, high = 1;  // `low` is within the budget, and `high` is not
  while (enough(high)) {
    low = high;
    if (low == PrivacyAccountant::kMostSteps) return low;
    high = std::min(2 * high, PrivacyAccountant::kMostSteps);
  }
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (enough(middle) ? low : high) = middle;
  }
  return low;
}

}  // namespace conclave

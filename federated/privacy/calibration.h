// The other way round: what a budget buys.
#pragma once

#include <string_view>

#include "federated/privacy/accountant.h"

namespace conclave {

/// The smallest noise multiplier, to a ten-thousandth above, with which `steps` releases at `sampling_rate`
/// stay within the budget, by an accountant of this name. Throws Error where there is none up to 10^6, and
/// what PrivacyAccountant does.
double least_noise(const PrivacyBudget& budget, double sampling_rate, std::int64_t steps,
                   std::string_view accountant);

/// The most releases that stay within the budget beside what was spent before; 0 where one is too many. At
/// most PrivacyAccountant::kMostSteps. Throws Error what PrivacyAccountant does.
std::int64_t most_steps(const PrivacyBudget& budget, double noise_multiplier, double sampling_rate,
                        std::string_view accountant, const std::vector<PrivacyEvent>& before = {});

}  // namespace conclave

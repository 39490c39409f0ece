// The inverse of accounting: what a budget allows.
#pragma once

#include <string_view>

#include "federated/privacy/accountant.h"

namespace conclave {

/// The smallest noise multiplier, at most a ten-thousandth too large, for which `steps` releases at
/// `sampling_rate` stay within the budget, by the accountant `accountant`. Throws Error if none up to 10^6 is
/// enough, and as PrivacyAccountant does.
double least_noise(const PrivacyBudget& budget, double sampling_rate, std::int64_t steps,
                   std::string_view accountant);

/// The largest number of releases that stay within the budget together with those in `before`; 0 if one is
/// too many; at most PrivacyAccountant::kMostSteps. Throws Error as PrivacyAccountant does.
std::int64_t most_steps(const PrivacyBudget& budget, double noise_multiplier, double sampling_rate,
                        std::string_view accountant, const std::vector<PrivacyEvent>& before = {});

}  // namespace conclave

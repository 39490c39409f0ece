#include "federated/privacy/accountant.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "federated/privacy/pld.h"
#include "federated/privacy/rdp.h"

namespace conclave {

void PrivacyAccountant::compose(const PrivacyEvent& event) {
  require(event.noise_multiplier >= 0 && std::isfinite(event.noise_multiplier),
          "privacy: a noise multiplier of {} is not valid; it is the noise's standard deviation over the "
          "clipping norm, 0.3 to 10 as a rule",
          event.noise_multiplier);
  require(event.sampling_rate >= 0 && event.sampling_rate <= 1,
          "privacy: a sampling rate of {} is no probability; it is the batch's expected size over the number "
          "of examples",
          event.sampling_rate);
  require(event.steps >= 0 && event.steps <= kMostSteps, "privacy: {} steps are not between 0 and {}",
          event.steps, kMostSteps);
  if (event.sampling_rate == 0 || event.steps == 0) return;
  if (event.noise_multiplier == 0) without_noise_ = true;
  const auto same = std::find_if(events_.begin(), events_.end(), [&](const PrivacyEvent& other) {
    return other.noise_multiplier == event.noise_multiplier && other.sampling_rate == event.sampling_rate;
  });
  if (same == events_.end())
    events_.push_back(event);
  else
    same->steps += event.steps;
}

double PrivacyAccountant::epsilon(double delta) const {
  require(
      delta > 0 && delta < 1,
      "privacy: delta {} is not between 0 and 1; it is well below one over the number of people, 1e-5 say",
      delta);
  if (without_noise_) return std::numeric_limits<double>::infinity();
  return events_.empty() ? 0 : std::max(0.0, epsilon_of_events(delta));
}

double PrivacyAccountant::delta(double epsilon) const {
  require(epsilon >= 0 && std::isfinite(epsilon), "privacy: epsilon {} is not a number from 0", epsilon);
  if (without_noise_) return 1;
  return events_.empty() ? 0 : std::clamp(delta_of_events(epsilon), 0.0, 1.0);
}

std::unique_ptr<PrivacyAccountant> make_accountant(std::string_view name) {
  if (name == "pld") return std::make_unique<PldAccountant>();
  if (name == "rdp") return std::make_unique<RdpAccountant>();
  fail("privacy: there is no accountant {}; there are pld, which is tight, and rdp", name);
}

double epsilon_of(const PrivacyEvent& event, double delta, std::string_view accountant) {
  const auto spent = make_accountant(accountant);
  spent->compose(event);
  return spent->epsilon(delta);
}

}  // namespace conclave

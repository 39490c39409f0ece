// How much privacy a series of noisy releases has spent. A release is a sum over people (or records, or
// sites: whatever the unit is). Each takes part with probability `sampling_rate`, independently of the others
// (Poisson sampling), and contributes a vector of norm at most C. Gaussian noise of standard deviation
// `noise_multiplier` * C is added. Neighbouring data sets differ by one unit, added or removed.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace conclave {

/// `steps` equal releases. Noise 0 means no privacy; rate 0, or no steps, spends nothing.
struct PrivacyEvent {
  double noise_multiplier = 1;
  double sampling_rate = 1;
  std::int64_t steps = 1;
};

/// What all releases together may spend.
struct PrivacyBudget {
  double epsilon = 0, delta = 0;
};

/// Both accountants give upper bounds for all events together and for both directions (a unit added, a unit
/// removed): the releases are (epsilon(delta), delta)-differentially private.
class PrivacyAccountant {
 public:
  virtual ~PrivacyAccountant() = default;

  /// Adds releases, in any order and number; equal ones are counted together. If noise, rates or steps are
  /// chosen depending on the outputs of earlier releases, only rdp is valid (Feldman and Zrnic 2021); pld is
  /// proven for choices made beforehand. Throws Error if the noise is below 0, the rate outside [0, 1], or
  /// the steps below 0 or above kMostSteps.
  void compose(const PrivacyEvent& event);

  /// The least epsilon known for this delta, in [0, infinity]. Throws Error unless 0 < delta < 1.
  double epsilon(double delta) const;
  /// The least delta known for this epsilon, in [0, 1]. Throws Error unless epsilon is at least 0 and finite.
  double delta(double epsilon) const;

  /// The releases that spend privacy, equal ones combined.
  const std::vector<PrivacyEvent>& events() const { return events_; }

  static constexpr std::int64_t kMostSteps = 1'000'000'000;

 private:
  virtual double epsilon_of_events(double delta) const = 0;
  virtual double delta_of_events(double epsilon) const = 0;

  std::vector<PrivacyEvent> events_;
  bool without_noise_ = false;
};

/// The accountant that recipes and federations use.
inline constexpr std::string_view kAccountant = "pld";

/// "pld" (tight; privacy/pld.h) or "rdp" (looser, no transform; privacy/rdp.h). Throws Error for other names.
std::unique_ptr<PrivacyAccountant> make_accountant(std::string_view name);

/// Epsilon of one event alone, by the accountant `accountant`. Throws Error as PrivacyAccountant does.
double epsilon_of(const PrivacyEvent& event, double delta, std::string_view accountant);

}  // namespace conclave

// How much privacy a series of noisy releases has spent. A release is a sum over people (or records, or
// sites: whatever the unit is) in which each takes part with probability `sampling_rate`, independently of
// the others (Poisson sampling), each adds a vector of norm at most C, and Gaussian noise of standard
// deviation `noise_multiplier` * C is added. Neighbours differ by one unit more or less.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace conclave {

/// `steps` releases alike. Noise 0 is no privacy; rate 0, or no steps, spends nothing.
struct PrivacyEvent {
  double noise_multiplier = 1;
  double sampling_rate = 1;
  std::int64_t steps = 1;
};

/// What may be spent, of all releases together.
struct PrivacyBudget {
  double epsilon = 0, delta = 0;
};

/// Both accountants give upper bounds, of all events together and of both directions (a unit more, a unit
/// less): whoever sees the releases has (epsilon(delta), delta)-differential privacy from them.
class PrivacyAccountant {
 public:
  virtual ~PrivacyAccountant() = default;

  /// Adds releases, in any order and number: equal ones are counted together. Where noise, rates or steps are
  /// chosen by what earlier releases said, it is rdp that holds (Feldman and Zrnic 2021); pld is proven for
  /// what is decided beforehand. Throws Error where the noise is below 0, the rate outside [0, 1], or the
  /// steps below 0 or above kMostSteps.
  void compose(const PrivacyEvent& event);

  /// The least epsilon known for this delta, in [0, infinity]. Throws Error unless 0 < delta < 1.
  double epsilon(double delta) const;
  /// The least delta known for this epsilon, in [0, 1]. Throws Error unless epsilon is at least 0 and finite.
  double delta(double epsilon) const;

  /// What spends, equal ones as one.
  const std::vector<PrivacyEvent>& events() const { return events_; }

  static constexpr std::int64_t kMostSteps = 1'000'000'000;

 private:
  virtual double epsilon_of_events(double delta) const = 0;
  virtual double delta_of_events(double epsilon) const = 0;

  std::vector<PrivacyEvent> events_;
  bool without_noise_ = false;
};

/// Whose accounts recipes and federations are held to.
inline constexpr std::string_view kAccountant = "pld";

/// "pld" (tight; privacy/pld.h) or "rdp" (looser, no transform; privacy/rdp.h). Throws Error at other names.
std::unique_ptr<PrivacyAccountant> make_accountant(std::string_view name);

/// Of one event alone, by an accountant of this name. Throws Error what PrivacyAccountant does.
double epsilon_of(const PrivacyEvent& event, double delta, std::string_view accountant);

}  // namespace conclave

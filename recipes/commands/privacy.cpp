#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "federated/privacy/calibration.h"
#include "recipes/commands/commands.h"

namespace conclave::commands {
namespace {

constexpr double kMostEpsilon = 1e6;  // as in recipes; accountants take a second for it

// Printed values are bounds, so they are rounded up, to five digits.
double rounded_up(double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  const double last_digit = std::pow(10.0, std::floor(std::log10(value)) - 4);
  return std::ceil(value / last_digit) * last_digit;
}

std::string releases(double noise, double rate, std::int64_t steps) {
  return fmt::format("{} {} at sampling rate {:g} with noise multiplier {:g}", steps,
                     steps == 1 ? "release" : "releases", rate, noise);
}

void check_budget(double epsilon) {
  require(epsilon <= kMostEpsilon, "--epsilon {:g}: nothing would be hidden; it is at most {:g}", epsilon,
          kMostEpsilon);
}

}  // namespace

int privacy_epsilon(const PrivacyArguments& arguments) {
  const double epsilon =
      epsilon_of({arguments.noise, arguments.rate, arguments.steps}, arguments.delta, arguments.accountant);
  fmt::print("epsilon {:g} at delta {:g}: {} ({})\n", rounded_up(epsilon), arguments.delta,
             releases(arguments.noise, arguments.rate, arguments.steps), arguments.accountant);
  return 0;
}

int privacy_noise(const PrivacyArguments& arguments) {
  check_budget(arguments.epsilon);
  const double noise = rounded_up(least_noise({arguments.epsilon, arguments.delta}, arguments.rate,
                                              arguments.steps, arguments.accountant));
  fmt::print(
      "noise multiplier {:g} keeps {} {} at sampling rate {:g} within epsilon {:g} at delta {:g} ({})\n",
      noise, arguments.steps, arguments.steps == 1 ? "release" : "releases", arguments.rate,
      arguments.epsilon, arguments.delta, arguments.accountant);
  return 0;
}

int privacy_steps(const PrivacyArguments& arguments) {
  check_budget(arguments.epsilon);
  const PrivacyBudget budget{arguments.epsilon, arguments.delta};
  const std::int64_t steps = most_steps(budget, arguments.noise, arguments.rate, arguments.accountant);
  require(steps > 0,
          "a single release at sampling rate {:g} with noise multiplier {:g} is beyond epsilon {:g} at delta "
          "{:g}; "
          "conclave privacy noise says how much noise it takes",
          arguments.rate, arguments.noise, arguments.epsilon, arguments.delta);
  fmt::print("{} stay within epsilon {:g} at delta {:g} ({})\n",
             releases(arguments.noise, arguments.rate, steps), arguments.epsilon, arguments.delta,
             arguments.accountant);
  return 0;
}

}  // namespace conclave::commands

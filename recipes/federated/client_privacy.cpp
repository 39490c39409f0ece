#include "recipes/federated/client_privacy.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "federated/privacy/accountant.h"
#include "federated/privacy/calibration.h"
#include "federated/privacy/poisson_sample.h"

namespace conclave {
namespace {

// Sums of up to this many grid steps are exact in f64.
constexpr double kMostSteps = 0x1p53;

}  // namespace

ClientPrivacy::ClientPrivacy(const ClientPrivacyTable& privacy, const SimulationTable& simulation,
                             std::size_t elements, RandomSource& random)
    : privacy_(privacy),
      random_(random),
      bits_(random),
      clients_(simulation.clients),
      rounds_(simulation.rounds),
      expected_(static_cast<double>(simulation.cohort)),
      rate_(expected_ / static_cast<double>(simulation.clients)) {
  const PrivacyBudget budget{privacy.epsilon, privacy.delta};
  noise_ = privacy.noise_multiplier > 0 ? privacy.noise_multiplier
                                        : least_noise(budget, rate_, rounds_, kAccountant);
  if (privacy.epsilon > 0) rounds_ = std::min(rounds_, most_steps(budget, noise_, rate_, kAccountant));
  require(rounds_ > 0,
          "client_privacy.epsilon = {}: one round with client_privacy.noise_multiplier = {} exceeds it; "
          "raise either, or set noise_multiplier to 0, which chooses the noise",
          privacy.epsilon, privacy.noise_multiplier);
  updates_ = {privacy.clip_norm, noise_, static_cast<std::int64_t>(elements)};
  if (privacy.adaptive) {
    // Andrew et al. 2021, theorem 1: the count, to which each client adds 1/2 or -1/2, and the updates
    // together are as private as one release with the whole noise.
    const double of_count = privacy.count_noise > 0 ? privacy.count_noise : expected_ / 20;
    require(2 * of_count > noise_,
            "client_privacy.count_noise = {:.4g}{}: it must be above half the noise multiplier of {:.4g}, "
            "because the count uses a part of that privacy",
            of_count, privacy.count_noise > 0 ? "" : ", a twentieth of the cohort", noise_);
    count_ = {0.5, 2 * of_count, 1};
    updates_.noise_multiplier = 1 / std::sqrt(1 / (noise_ * noise_) - 1 / (4 * of_count * of_count));
  }
  require(static_cast<double>(clients_) * updates_.bound / updates_.step() < kMostSteps / 2,
          "client_privacy.noise_multiplier = {}: too little for updates of {} clients to be added up exactly",
          updates_.noise_multiplier, clients_);
}

double ClientPrivacy::epsilon(std::int64_t rounds) const {
  return epsilon_of({noise_, rate_, rounds}, privacy_.delta, kAccountant);
}

void ClientPrivacy::draw(std::vector<std::int64_t>& cohort) {
  poisson_sample(bits_, rate_, 0, clients_, 1, cohort);
}

double ClientPrivacy::clip(double norm_squared, double& count) const {
  const double norm = std::sqrt(norm_squared);
  if (privacy_.adaptive) count += (norm <= updates_.bound ? 0.5 : -0.5) / count_.step();
  return norm > updates_.bound ? updates_.bound / norm : 1;
}

void ClientPrivacy::add(std::span<const float> update, double factor, std::span<double> sums) const {
  const double scale = factor / updates_.step();
#pragma omp parallel for simd schedule(static) if (update.size() > 65536)
  for (std::size_t i = 0; i < update.size(); ++i)
    sums[i] += std::nearbyint(static_cast<double>(update[i]) * scale);
}

void ClientPrivacy::add_noise(std::span<double> sums, std::size_t first, std::size_t end) {
  const std::size_t elements = sums.size() - 1;
  const std::size_t stop = std::min(end, elements);
  if (first < stop) SumNoise(updates_).add_to_steps(random_, sums.subspan(first, stop - first));
  if (privacy_.adaptive && end > elements) SumNoise(count_).add_to_steps(random_, sums.last(1));
}

void ClientPrivacy::release(std::span<const double> sums, std::span<float> update) {
  const double scale = updates_.step() / expected_;
  for (std::size_t i = 0; i < update.size(); ++i) update[i] = static_cast<float>(sums[i] * scale);
  if (!privacy_.adaptive) return;
  // Andrew et al. 2021, algorithm 1: C = C exp(-eta (b - gamma)), where b is the share of updates within the
  // norm.
  const double within = sums.back() * count_.step() / expected_ + 0.5;
  updates_.bound =
      std::clamp(updates_.bound * std::exp(-privacy_.clip_rate * (within - privacy_.quantile)), 1e-9, 1e9);
}

}  // namespace conclave

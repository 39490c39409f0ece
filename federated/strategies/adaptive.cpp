#include "federated/strategies/adaptive.h"

#include <cmath>

#include "core/error.h"
#include "federated/strategies/tiles.h"

namespace conclave {

AdaptiveServer::AdaptiveServer(Rule rule, const StrategyOptions& options, std::size_t elements)
    : MeanStrategy(options, elements),
      rule_(rule),
      first_(elements, options.folder),
      second_(elements, options.folder, strategies::bounded(options.adaptivity * options.adaptivity)) {
  for (const double beta : {options.beta1, options.beta2})
    require(beta >= 0 && beta < 1, "beta1 {} and beta2 {}, expected from 0 to below 1", options.beta1,
            options.beta2);
  require(std::isfinite(options.adaptivity) && options.adaptivity > 0, "adaptivity {}, expected above 0",
          options.adaptivity);
}

void AdaptiveServer::apply(std::size_t offset, std::span<float> global, std::span<const double> mean) {
  float *m = &first_.values()[offset], *v = &second_.values()[offset], *x = global.data();
  const double rate = server_rate(0.01), b1 = options_.beta1, b2 = options_.beta2, tau = options_.adaptivity;
  const auto update = [&](const auto& second) {
#pragma omp simd
    for (std::size_t j = 0; j < mean.size(); ++j) {
      const double delta = mean[j], square = delta * delta;
      const double first = b1 * m[j] + (1 - b1) * delta, next = second(v[j], square);
      m[j] = strategies::bounded(first);
      v[j] = strategies::bounded(next);
      x[j] = strategies::bounded(x[j] + rate * first / (std::sqrt(next) + tau));
    }
  };
  switch (rule_) {
    case Rule::adam:
      return update([&](double v, double square) { return b2 * v + (1 - b2) * square; });
    case Rule::adagrad:
      return update([&](double v, double square) { return v + square; });
    case Rule::yogi:
      return update([&](double v, double square) {
        const double towards = (1 - b2) * square;
        return v > square ? v - towards : v < square ? v + towards : v;
      });
  }
}

}  // namespace conclave

// Privacy loss distributions: the distribution of log(P(output) / Q(output)) for outputs drawn from P, where
// P and Q belong to neighbouring data sets. The losses of several releases add up. The probabilities on a
// grid, multiplied as Fourier transforms, give epsilon and delta to about a thousandth, and never below the
// true value (except for the rounding of f64, at most 1e-7 of it).
#pragma once

#include "federated/privacy/accountant.h"

namespace conclave {

/// Koskela, Jalko and Honkela 2020 (transforms), Doroshenko et al. 2022 (the grid's pessimistic rounding,
/// whose error is quadratic in the interval), and tilting: each probability is multiplied by e^(tilt * loss)
/// before the transform, so that the tail that decides delta becomes the bulk. A delta of 1e-30 then has as
/// many digits as one of 1e-3.
class PldAccountant : public PrivacyAccountant {
  double epsilon_of_events(double delta) const override;
  double delta_of_events(double epsilon) const override;
};

}  // namespace conclave

// Privacy loss distributions: of what log(P(output) / Q(output)) is when outputs come from P, which releases
// from neighbours P and Q add up. Its probabilities on a grid, multiplied as Fourier transforms, give epsilon
// and delta to within a thousandth or so, never below the truth (but for what f64 rounds, 1e-7 of it at
// most).
#pragma once

#include "federated/privacy/accountant.h"

namespace conclave {

/// Koskela, Jalko and Honkela 2020 (transforms), Doroshenko et al. 2022 (the grid's pessimistic rounding,
/// which errs by the interval's square), and tilting: what is transformed is each probability times e^(tilt *
/// loss), so that the tail where delta is decided becomes the bulk. A delta of 1e-30 then has as many digits
/// as one of 1e-3.
class PldAccountant : public PrivacyAccountant {
  double epsilon_of_events(double delta) const override;
  double delta_of_events(double epsilon) const override;
};

}  // namespace conclave

// Compares our layers with PyTorch's, forward and backward: within 1e-5 in f32 and 1e-10 in f64.
#pragma once

#include <catch2/catch.hpp>
#include <type_traits>

#include "autograd/nn/parameter_set.h"
#include "tests/autograd/gradient.h"
#include "tests/fixtures/fixture.h"

namespace conclave {

template <class T>
inline constexpr double kAgreement = std::is_same_v<T, float> ? 1e-5 : 1e-10;

/// Runs one layer with the fixture's parameters forward on its "x" and backward on its "dy".
template <class T>
struct Run {
  Run(const Fixture& fixture, Module& model) : fixture(fixture), parameters(model, dtype_of<T>, 0) {
    for (Parameter* parameter : parameters.parameters())
      parameter->value.copy_from(fixture(parameter->name, dtype_of<T>));
    tape.watch(x);
  }

  void check(const Tensor& y) {
    CHECK(distance(y, fixture("y")) < kAgreement<T>);
    tape.backward(y, fixture("dy", dtype_of<T>));
    CHECK(distance(tape.gradient(x), fixture("dx")) < kAgreement<T>);
    for (const Parameter* parameter : parameters.parameters()) {
      CAPTURE(parameter->name);
      CHECK(distance(parameter->slot.gradient, fixture("d" + parameter->name)) < kAgreement<T>);
    }
  }

  const Fixture& fixture;
  ParameterSet parameters;
  Arena arena{"test"};
  Tape tape{arena};
  Tensor x = kept(fixture("x", dtype_of<T>));
};

}  // namespace conclave

#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/random.h"

namespace conclave {
namespace {

Tensor weighting(const Tensor& output) {
  Tensor weights = Tensor::empty(output.shape(), DType::f64);
  const RandomStream stream{.seed = 7, .step = 0, .tensor = 0};
  auto values = weights.span<double>();
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = stream.normal(i);
  return weights;
}

}  // namespace

GradcheckResult gradcheck(const std::function<Tensor(Tape&, std::span<const Tensor>)>& function,
                          std::vector<Tensor> inputs, double step) {
  Arena arena("gradcheck");
  const std::vector<Tensor> owners = inputs;
  for (Tensor& input : inputs) {
    require(input.dtype() == DType::f64, "gradcheck: inputs must be f64, not {}", name_of(input.dtype()));
    input = Tensor::borrow(input.raw(), input.shape(),
                           DType::f64);  // the tape never destroys handles, so they must not own memory
  }
  const auto loss = [&] {
    ArenaScope scope(arena);
    Tape tape(arena, false);
    const Tensor output = function(tape, inputs);
    const Tensor weights = weighting(output);
    double sum = 0;
    for (Index i = 0; i < output.numel(); ++i) sum += output.data<double>()[i] * weights.data<double>()[i];
    return sum;
  };

  std::vector<Tensor> analytic;
  {
    Tape tape(arena);
    for (Tensor& input : inputs) tape.watch(input);
    const Tensor output = function(tape, inputs);
    tape.backward(output, weighting(output));
    for (Tensor& input : inputs) {
      analytic.push_back(tape.gradient(input).clone());
      input.slot = nullptr;
    }
  }

  GradcheckResult result;
  for (std::size_t n = 0; n < inputs.size(); ++n) {
    double* values = inputs[n].data<double>();
    for (Index i = 0; i < inputs[n].numel(); ++i) {
      const double original = values[i];
      const auto at = [&](double offset) {
        values[i] = original + offset;
        const double value = loss();
        values[i] = original;
        return value;
      };
      const double numeric = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
      const double exact = analytic[n].data<double>()[i];
      double error = std::fabs(exact - numeric) / std::max({1.0, std::fabs(exact), std::fabs(numeric)});
      // Comparisons with NaN are false, so a NaN would not be recorded as the worst.
      if (!std::isfinite(error)) error = std::numeric_limits<double>::infinity();
      if (error > result.worst) result = {error, static_cast<int>(n), i, exact, numeric};
    }
  }
  return result;
}

}  // namespace conclave

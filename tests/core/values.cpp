#include "tests/core/values.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/random.h"

namespace conclave {

Tensor random_values(const Shape& shape, std::uint32_t number, DType dtype, double spread) {
  const Tensor values = Tensor::empty(shape, DType::f64);
  const RandomStream stream{.seed = 11, .step = 0, .tensor = number};
  for (Index i = 0; i < values.numel(); ++i)
    values.data<double>()[i] = spread * stream.normal(static_cast<std::uint64_t>(i));
  return values.to(dtype);
}

Tensor unwritten(const Shape& shape, DType dtype) {
  const Tensor values = Tensor::empty(shape, dtype);
  values.fill(std::numeric_limits<double>::quiet_NaN());
  return values;
}

double distance(const Tensor& actual, const Tensor& expected) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (actual.shape() != expected.shape()) return kInfinity;
  const Tensor a = actual.to(DType::f64), e = expected.to(DType::f64);
  double worst = 0;
  for (Index i = 0; i < a.numel(); ++i) {
    const double difference = std::fabs(a.data<double>()[i] - e.data<double>()[i]);
    if (!std::isfinite(difference)) return kInfinity;
    worst = std::max(worst, difference / std::max(1.0, std::fabs(e.data<double>()[i])));
  }
  return worst;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         (a.numel() == 0 || std::memcmp(a.raw(), b.raw(), a.bytes()) == 0);
}

Tensor plus(const Tensor& a, const Tensor& b) {
  const Tensor sum = a.to(DType::f64), other = b.to(DType::f64);
  for (Index i = 0; i < sum.numel(); ++i) sum.data<double>()[i] += other.data<double>()[i];
  return sum;
}

}  // namespace conclave

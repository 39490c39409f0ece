#include "core/kernels/routing.h"

#include <cmath>
#include <limits>

namespace conclave::kernels {

void add_router_gradients(const Tensor& probabilities, const Tensor& lse, RouterTerms terms,
                          const Tensor& dlogits) {
  const char* operation = "add_router_gradients";
  expect_rank(operation, "probabilities", probabilities, 2);
  expect(operation, "dlogits", dlogits, probabilities.shape(), probabilities.dtype());
  const Index tokens = probabilities.size(0), experts = probabilities.size(1);
  if (terms.z != 0) expect(operation, "lse", lse, {tokens}, probabilities.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, probabilities, lse, dlogits))
      return cuda::add_router_gradients(probabilities, lse, terms, dlogits);
  for_floating(probabilities.dtype(), operation, [&]<class T>(T) {
    const T z = static_cast<T>(2 * terms.z), entropy = static_cast<T>(terms.entropy);
#pragma omp parallel for schedule(static) if (probabilities.numel() > kParallelElements)
    for (Index token = 0; token < tokens; ++token) {
      const T* p = probabilities.data<T>() + token * experts;
      T* out = dlogits.data<T>() + token * experts;
      if (z != 0)
        for (Index e = 0; e < experts; ++e) out[e] += z * lse.data<T>()[token] * p[e];
      if (entropy == 0) continue;
      const auto log = [&](Index e) { return std::log(std::max(p[e], std::numeric_limits<T>::min())); };
      T uncertainty = 0;
      for (Index e = 0; e < experts; ++e) uncertainty -= p[e] * log(e);
      for (Index e = 0; e < experts; ++e) out[e] -= entropy * p[e] * (log(e) + uncertainty);
    }
  });
}

void add_domain_gradients(const Tensor& probabilities, const Tensor& offsets, const Tensor& chosen,
                          double coefficient, Index expert, const Tensor& dlogits) {
  const char* operation = "add_domain_gradients";
  expect_rank(operation, "probabilities", probabilities, 2);
  expect(operation, "dlogits", dlogits, probabilities.shape(), probabilities.dtype());
  const Index sequences = expect_offsets(operation, offsets, probabilities.size(0));
  expect(operation, "chosen", chosen, {sequences}, DType::i32);
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, probabilities, offsets, chosen, dlogits))
      return cuda::add_domain_gradients(probabilities, offsets, chosen, coefficient, expert, dlogits);
  const auto bounds = offsets.span<std::int32_t>(), wanted = chosen.span<std::int32_t>();
  const Index experts = probabilities.size(1);
  for_floating(probabilities.dtype(), operation, [&]<class T>(T) {
    const T weight = static_cast<T>(coefficient);
    for (std::size_t s = 0; s < wanted.size(); ++s) {
      if (wanted[s] == 0) continue;
      for (Index i = bounds[s] * experts; i < bounds[s + 1] * experts; ++i)
        dlogits.data<T>()[i] += weight * (probabilities.data<T>()[i] - T(i % experts == expert ? 1 : 0));
    }
  });
}

void add_row(const Tensor& row, const Tensor& x) {
  expect_rank("add_row", "x", x, 2);
  expect("add_row", "x", x, x.shape(), x.dtype());
  expect("add_row", "row", row, {x.size(1)}, DType::f64);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("add_row", row, x)) return cuda::add_row(row, x);
  const Index columns = x.size(1);
  for_floating(x.dtype(), "add_row", [&]<class T>(T) {
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index r = 0; r < x.size(0); ++r)
      for (Index i = 0; i < columns; ++i)
        x.data<T>()[r * columns + i] += static_cast<T>(row.data<double>()[i]);
  });
}

void segment_numbers(const Tensor& offsets, const Tensor& numbers) {
  const Index segments = expect_offsets("segment_numbers", offsets, numbers.numel());
  expect("segment_numbers", "numbers", numbers, {numbers.numel()}, DType::i32);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("segment_numbers", offsets, numbers)) return cuda::segment_numbers(offsets, numbers);
  const std::int32_t* bounds = offsets.data<std::int32_t>();
  std::int32_t* to = numbers.data<std::int32_t>();
  for (Index s = 0; s < segments; ++s)
    std::fill(to + bounds[s], to + bounds[s + 1], static_cast<std::int32_t>(s));
}

void normal_noise(const RandomStream& stream, Index first, double deviation, const Tensor& x) {
  expect("normal_noise", "x", x, x.shape(), x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("normal_noise", x)) return cuda::normal_noise(stream, first, deviation, x);
  for_floating(x.dtype(), "normal_noise", [&]<class T>(T) {
    T* to = x.data<T>();
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index i = 0; i < x.numel(); ++i)
      to[i] = static_cast<T>(deviation * stream.normal(static_cast<std::uint64_t>(first + i)));
  });
}

}  // namespace conclave::kernels

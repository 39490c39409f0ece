#include <cmath>
#include <limits>

#include "core/kernels/cuda_kernel.h"
#include "core/kernels/routing.h"

namespace conclave::kernels::cuda {
namespace {

template <class T>
constexpr T kSmallest = std::numeric_limits<T>::min();  // device code cannot call it

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    router_gradients_kernel(Index tokens, Index experts, const T* probabilities, const T* lse, T z, T entropy,
                            T* dlogits) {
  for_team_rows(tokens, [&](Index token) {
    const T* p = probabilities + token * experts;
    T uncertainty = 0;
    const auto log_of = [](T probability) {
      return std::log(probability > kSmallest<T> ? probability : kSmallest<T>);
    };
    if (entropy != 0) {
      for_columns<kWidth, kTeam>(experts, [&](Index i) {
        const Pack<T, kWidth> value = load<kWidth>(p + i);
        for (int j = 0; j < kWidth; ++j) uncertainty -= value.at[j] * log_of(value.at[j]);
      });
      uncertainty = team_sum<kTeam>(uncertainty);
    }
    const T size = z != 0 ? z * lse[token] : T(0);
    for_columns<kWidth, kTeam>(experts, [&](Index i) {
      Pack<T, kWidth> value = load<kWidth>(p + i);
      for (int j = 0; j < kWidth; ++j) {
        const T probability = value.at[j];
        value.at[j] = size * probability;
        if (entropy != 0) value.at[j] -= entropy * probability * (log_of(probability) + uncertainty);
      }
      write_pack<kWidth>(dlogits + token * experts + i, value, Write::accumulate);
    });
  });
}

// The segment of [0, segments) that `row` belongs to.
__device__ Index segment_of(const std::int32_t* offsets, Index segments, Index row) {
  Index low = 0, high = segments;  // offsets[low] <= row < offsets[high]
  while (high - low > 1) {
    const Index middle = (low + high) / 2;
    (offsets[middle] <= row ? low : high) = middle;
  }
  return low;
}

template <class T>
struct DomainGradient {
  Index experts, segments, expert;
  const T* probabilities;
  const std::int32_t *offsets, *chosen;
  T weight;
  T* dlogits;
  template <int>
  __device__ void at(Index i) const {
    if (chosen[segment_of(offsets, segments, i / experts)] == 0) return;
    dlogits[i] += weight * (probabilities[i] - T(i % experts == expert ? 1 : 0));
  }
};

template <class T>
struct AddRow {
  Index columns;
  const double* row;
  T* x;
  template <int kWidth>
  __device__ void at(Index i) const {
    Pack<T, kWidth> value = load<kWidth>(x + i);
    Index column = i % columns;
    for (int j = 0; j < kWidth; ++j) {
      value.at[j] += static_cast<T>(row[column]);
      if (++column == columns) column = 0;
    }
    store<kWidth>(x + i, value);
  }
};

struct SegmentNumbers {
  Index segments;
  const std::int32_t* offsets;
  std::int32_t* numbers;
  template <int>
  __device__ void at(Index row) const {
    numbers[row] = static_cast<std::int32_t>(segment_of(offsets, segments, row));
  }
};

template <class T>
struct Noise {
  RandomStream stream;
  Index first;
  double deviation;
  T* x;
  template <int kWidth>
  __device__ void at(Index i) const {
    Pack<T, kWidth> value;
    for (int j = 0; j < kWidth; ++j)
      value.at[j] = static_cast<T>(deviation * stream.normal(static_cast<std::uint64_t>(first + i + j)));
    store<kWidth>(x + i, value);
  }
};

}  // namespace

void add_router_gradients(const Tensor& probabilities, const Tensor& lse, RouterTerms terms,
                          const Tensor& dlogits) {
  const Index tokens = probabilities.size(0), experts = probabilities.size(1);
  if (tokens == 0 || (terms.z == 0 && terms.entropy == 0)) return;
  for_floating(probabilities.dtype(), "add_router_gradients", [&]<class T>(T) {
    const auto run = [&]<int kWidth, int kTeam>() {
      launch("add_router_gradients", router_gradients_kernel<T, kWidth, kTeam>, team_shape<kTeam>(tokens),
             tokens, experts, probabilities.data<T>(), terms.z != 0 ? lse.data<T>() : nullptr,
             static_cast<T>(2 * terms.z), static_cast<T>(terms.entropy), dlogits.data<T>());
    };
    for_team<T>(experts, {probabilities.raw(), dlogits.raw()}, run);
  });
}

void add_domain_gradients(const Tensor& probabilities, const Tensor& offsets, const Tensor& chosen,
                          double coefficient, Index expert, const Tensor& dlogits) {
  for_floating(probabilities.dtype(), "add_domain_gradients", [&]<class T>(T) {
    for_items("add_domain_gradients", probabilities.numel(),
              DomainGradient<T>{probabilities.size(1), chosen.numel(), expert, probabilities.data<T>(),
                                offsets.data<std::int32_t>(), chosen.data<std::int32_t>(),
                                static_cast<T>(coefficient), dlogits.data<T>()});
  });
}

void add_row(const Tensor& row, const Tensor& x) {
  for_floating(x.dtype(), "add_row", [&]<class T>(T) {
    for_flat<T>("add_row", x.numel(), {x.raw()}, AddRow<T>{x.size(1), row.data<double>(), x.data<T>()});
  });
}

void segment_numbers(const Tensor& offsets, const Tensor& numbers) {
  for_items("segment_numbers", numbers.numel(),
            SegmentNumbers{offsets.numel() - 1, offsets.data<std::int32_t>(), numbers.data<std::int32_t>()});
}

void normal_noise(const RandomStream& stream, Index first, double deviation, const Tensor& x) {
  for_floating(x.dtype(), "normal_noise", [&]<class T>(T) {
    for_flat<T>("normal_noise", x.numel(), {x.raw()}, Noise<T>{stream, first, deviation, x.data<T>()});
  });
}

}  // namespace conclave::kernels::cuda

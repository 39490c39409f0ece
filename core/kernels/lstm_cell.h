// Shared by the CPU and CUDA kernels of lstm.h: the order of the sequences, and one unit's step.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>

#include "core/kernels/lstm.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels {

/// The first sequence that begins at or after `row`, where a group begins.
inline Index first_sequence(RowOffsets sequences, Index row) {
  return std::ranges::lower_bound(sequences, row) - sequences.begin();
}

/// order [sequences] = the sequences' numbers, within each group by falling length; of equal lengths, the
/// lower number comes first.
inline void order_sequences(RowOffsets groups, RowOffsets sequences, std::span<std::int32_t> order) {
  std::iota(order.begin(), order.end(), 0);
  const auto length = [&](std::int32_t s) {
    return sequences[static_cast<std::size_t>(s) + 1] - sequences[static_cast<std::size_t>(s)];
  };
  for (std::size_t g = 0; g + 1 < groups.size(); ++g)
    std::sort(order.begin() + first_sequence(sequences, groups[g]),
              order.begin() + first_sequence(sequences, groups[g + 1]), [&](std::int32_t a, std::int32_t b) {
                return length(a) != length(b) ? length(a) > length(b) : a < b;
              });
}

/// One unit's gates, their inputs, or the gradients of either.
template <class T>
struct LstmGates {
  T i, f, g, o;
};

/// Computes the gates from their inputs, and c and h from the gates and the previous step's c.
template <class T>
CONCLAVE_HOST_DEVICE inline LstmGates<T> lstm_cell(LstmGates<T> inputs, T cell_before, T& cell, T& h) {
  const T i = vector_sigmoid(inputs.i), f = vector_sigmoid(inputs.f), g = vector_tanh(inputs.g),
          o = vector_sigmoid(inputs.o);
  cell = f * cell_before + i * g;
  h = o * vector_tanh(cell);
  return {i, f, g, o};
}

/// The gradients of the gates' inputs, from the gradients of h and c. dcell, the gradient of c, is replaced
/// by that of the previous step's c.
template <class T>
CONCLAVE_HOST_DEVICE inline LstmGates<T> lstm_cell_backward(LstmGates<T> gates, T cell, T cell_before, T dh,
                                                            T& dcell) {
  const auto [i, f, g, o] = gates;
  const T squashed = vector_tanh(cell), dc = dcell + dh * o * (T(1) - squashed * squashed);
  dcell = dc * f;
  return {dc * g * i * (T(1) - i), dc * cell_before * f * (T(1) - f), dc * i * (T(1) - g * g),
          dh * squashed * o * (T(1) - o)};
}

}  // namespace conclave::kernels

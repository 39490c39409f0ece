// What the CPU's and CUDA's kernels of lstm.h share: the order of the sequences, and one unit's step.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>

#include "core/kernels/lstm.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels {

/// The first sequence at or behind `row`, where a group begins.
inline Index first_sequence(RowOffsets sequences, Index row) {
  return std::ranges::lower_bound(sequences, row) - sequences.begin();
}

/// order [sequences] = their numbers, within each group by falling length; of equally long ones the first
/// comes first.
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

/// One unit's gates, what goes into them, or gradients of either.
template <class T>
struct LstmGates {
  T i, f, g, o;
};

/// The gates that follow from what goes into them; c and h from these and the step before's c.
template <class T>
CONCLAVE_HOST_DEVICE inline LstmGates<T> lstm_cell(LstmGates<T> inputs, T cell_before, T& cell, T& h) {
  const T i = vector_sigmoid(inputs.i), f = vector_sigmoid(inputs.f), g = vector_tanh(inputs.g),
          o = vector_sigmoid(inputs.o);
  cell = f * cell_before + i * g;
  h = o * vector_tanh(cell);
  return {i, f, g, o};
}

/// The gradients of what went into the gates, from that of h and that of c, which is replaced by the step
/// before's.
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

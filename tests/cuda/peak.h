// The peak rate of f32 multiply-adds on a GPU, an upper bound for the arithmetic of every operation in f32.
#pragma once

#include "core/tensor.h"

namespace conclave::roofline {

/// Queues `rounds` rounds of f32 multiply-adds in registers, on enough threads to fill any GPU or, with
/// `small`, on few threads. `out` [1] only keeps the compiler from removing the work. Returns the number of
/// FLOPs.
double multiply_adds(Index rounds, bool small, const Tensor& out);

}  // namespace conclave::roofline

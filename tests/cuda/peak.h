// What a GPU's multiply-adds come to, of which every operation's arithmetic is a part.
#pragma once

#include "core/tensor.h"

namespace conclave::roofline {

/// Queues `rounds` rounds of multiply-adds of f32 in registers, on enough threads to fill any GPU or,
/// `small`, on few; `out` [1] is hardly ever written. Returns how many FLOPs that is.
double multiply_adds(Index rounds, bool small, const Tensor& out);

}  // namespace conclave::roofline

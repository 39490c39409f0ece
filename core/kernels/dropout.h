// Dropout (Srivastava et al. 2014), inverted: kept values grow by 1 / (1 - rate), so evaluation does nothing.
// What is kept is a function of the random stream and the element's global index, so every number of ranks
// drops the same elements. The backward pass reads it from a mask of one byte an element, as drawing it again
// would cost more than the rest of the kernel. The rate is rounded to a multiple of 2^-16.
#pragma once

#include "core/kernels/kernel.h"
#include "core/random.h"

namespace conclave::kernels {

/// y = dropout(x) (+ residual, where defined), same shape; mask u8, same shape, receives 1 for what is kept,
/// 0 for the rest. Element i of x is element first + i of the global tensor.
void dropout(const Tensor& x, const Tensor& residual, double rate, const RandomStream& stream, Index first,
             const Tensor& y, const Tensor& mask);

/// dx (=, +=) dy where the mask keeps, scaled as by dropout with this rate, and 0 elsewhere.
void dropout_backward(const Tensor& dy, const Tensor& mask, double rate, const Tensor& dx, Write write);

/// The CUDA twins, to which those above hand over.
namespace cuda {
void dropout(const Tensor& x, const Tensor& residual, double rate, const RandomStream& stream, Index first,
             const Tensor& y, const Tensor& mask);
void dropout_backward(const Tensor& dy, const Tensor& mask, double rate, const Tensor& dx, Write write);
}  // namespace cuda

}  // namespace conclave::kernels

// Inverted dropout (Srivastava et al. 2014): kept values grow by 1 / (1 - rate), so that evaluation does
// nothing. Whether an element is kept depends only on the random stream and the element's global index, so
// any number of ranks drops the same elements. The backward pass reads a mask of one byte per element,
// because drawing the numbers again would cost more than the rest of the kernel. The rate is rounded to a
// multiple of 2^-16.
#pragma once

#include "core/kernels/kernel.h"
#include "core/random.h"

namespace conclave::kernels {

/// y = dropout(x) (+ residual, if defined), same shape; mask u8, same shape, receives 1 for kept elements and
/// 0 for the others. Element i of x is element first + i of the global tensor.
void dropout(const Tensor& x, const Tensor& residual, double rate, const RandomStream& stream, Index first,
             const Tensor& y, const Tensor& mask);

/// dx (=, +=) dy, scaled as by dropout() with this rate, where the mask is 1; 0 elsewhere.
void dropout_backward(const Tensor& dy, const Tensor& mask, double rate, const Tensor& dx, Write write);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void dropout(const Tensor& x, const Tensor& residual, double rate, const RandomStream& stream, Index first,
             const Tensor& y, const Tensor& mask);
void dropout_backward(const Tensor& dy, const Tensor& mask, double rate, const Tensor& dx, Write write);
}  // namespace cuda

}  // namespace conclave::kernels

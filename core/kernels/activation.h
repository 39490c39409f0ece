// Element-wise non-linearities. The forward pass stores the derivative rather than the input: GELU's value
// and derivative share one exponential, so the backward pass is a single multiplication.
#pragma once

#include "core/kernels/kernel.h"
#include "core/kernels/matmul.h"

namespace conclave::kernels {

/// values [count] = activation(values), in place; derivative [count] or null receives activation'(values).
/// Runs on the calling thread: it is the epilogue of a matmul block.
void activate(float* values, Index count, Activation activation, float* derivative);
void activate(double* values, Index count, Activation activation, double* derivative);

/// y = activation(x), any shape; `derivative` (same shape), if defined, receives activation'(x).
void activation(const Tensor& x, Activation activation, const Tensor& y, const Tensor& derivative);

/// c (=, +=) a * b, element by element.
void multiply(const Tensor& a, const Tensor& b, const Tensor& c, Write write = Write::assign);

/// c = a + b; c may be a.
void add(const Tensor& a, const Tensor& b, const Tensor& c);

/// c (=, +=) scale * a.
void scale(const Tensor& a, double scale, const Tensor& c, Write write = Write::assign);

/// x[r] *= factors[r] for the rows of x [rows, ...].
void scale_rows(const Tensor& x, std::span<const double> factors);

/// Exchanges the elements of a and b.
void swap(const Tensor& a, const Tensor& b);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void swap(const Tensor& a, const Tensor& b);
void activation(const Tensor& x, Activation activation, const Tensor& y, const Tensor& derivative);
void multiply(const Tensor& a, const Tensor& b, const Tensor& c, Write write);
void add(const Tensor& a, const Tensor& b, const Tensor& c);
void scale(const Tensor& a, double scale, const Tensor& c, Write write);
void scale_rows(const Tensor& x, std::span<const double> factors);
}  // namespace cuda

}  // namespace conclave::kernels

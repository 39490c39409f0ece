// Convolutions by cuDNN, of which no other file knows. As with blas.h: a thread has a handle of its own,
// bound to its current stream before every convolution, and its own plans, by shape: descriptors and the
// fastest of the algorithms that give the same bits every time. Workspaces come from Scratch.
#pragma once

#include "core/tensor.h"

namespace conclave::cuda {

/// Images x [images, height, width, in], of which a window of weight [out, size, size, in] makes y [images,
/// out_height, out_width, out]; none of them empty. Two are read; the third, which may not overlap with them,
/// is the result, or has it added.
template <class T>
struct Convolution {
  Index images = 0, height = 0, width = 0, in = 0, out_height = 0, out_width = 0, out = 0;
  Index size = 0, stride = 0, padding = 0;
  T *x = nullptr, *weight = nullptr, *y = nullptr;
  bool accumulate = false;
  bool rounded = true;  ///< as precision() says; else operands are multiplied as they are
};

/// Queues the convolution: y of x and weight, x (its gradient) of weight and y, or weight (its gradient) of x
/// and y; throws Error, naming the operation, where that fails. Operands of f32 are multiplied in TF32 where
/// they may be rounded and precision() is tf32. Where it is bf16, they are multiplied as they are, for now.
void convolve(const char* operation, const Convolution<float>& convolution);
void convolve(const char* operation, const Convolution<double>& convolution);
void convolve_backward_input(const char* operation, const Convolution<float>& convolution);
void convolve_backward_input(const char* operation, const Convolution<double>& convolution);
void convolve_backward_weight(const char* operation, const Convolution<float>& convolution);
void convolve_backward_weight(const char* operation, const Convolution<double>& convolution);

}  // namespace conclave::cuda

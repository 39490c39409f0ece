// Convolutions by cuDNN, which is used in dnn.cpp only. As in blas.h, each thread has its own handle, bound
// to its current stream before every convolution, and its own plans by shape: descriptors, and the fastest
// algorithm that is deterministic. Workspaces come from Scratch.
#pragma once

#include "core/tensor.h"

namespace conclave::cuda {

/// Images x [images, height, width, in], convolved with weight [out, size, size, in], give y [images,
/// out_height, out_width, out]; none of them is empty. Two of the three are operands. The third, which must
/// not overlap them, is the result: it is overwritten or, with `accumulate`, added to.
template <class T>
struct Convolution {
  Index images = 0, height = 0, width = 0, in = 0, out_height = 0, out_width = 0, out = 0;
  Index size = 0, stride = 0, padding = 0;
  T *x = nullptr, *weight = nullptr, *y = nullptr;
  bool accumulate = false;
  bool rounded = true;  ///< whether precision() applies; otherwise operands are multiplied unrounded
};

/// Queue a convolution; throw Error, naming the operation, on failure. They compute y from x and weight; x
/// (its gradient) from weight and y; and weight (its gradient) from x and y. Operands of f32 are multiplied
/// in TF32 if `rounded` is set and precision() is tf32. If precision() is bf16, they are multiplied in f32.
void convolve(const char* operation, const Convolution<float>& convolution);
void convolve(const char* operation, const Convolution<double>& convolution);
void convolve_backward_input(const char* operation, const Convolution<float>& convolution);
void convolve_backward_input(const char* operation, const Convolution<double>& convolution);
void convolve_backward_weight(const char* operation, const Convolution<float>& convolution);
void convolve_backward_weight(const char* operation, const Convolution<double>& convolution);

}  // namespace conclave::cuda

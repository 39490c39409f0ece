// Convolution over images (window.h) as a matrix product: the pixels under the window at one position are a
// row, and a linear layer turns each row into an output pixel. Rows are written to scratch memory for a few
// images at a time, as many as the caches hold, and multiplied there (Chellapilla, Puri, Simard 2006).
#pragma once

#include "core/kernels/matmul.h"
#include "core/kernels/window.h"

namespace conclave::kernels {

/// Elements of scratch memory that the functions below need for images like x [images, height, width, in]; 0
/// on a CUDA device.
Index convolution_scratch(const Tensor& x, const Window& window);

/// y [images, out height, out width, out] = activation(x [images, height, width, in] under weight [out, size,
/// size, in] + bias [out]); bias may be undefined. `derivative`, shaped like y, if defined receives
/// activation'(...) for the backward pass. With RowBits::independent a pixel's bits do not depend on the
/// number of images. On a CUDA device they may depend on it even so, because cuDNN chooses its algorithm by
/// that number; but cuDNN then computes in f32, whatever conclave::precision() is. `panels` are those of
/// grouped_linear() for the weight as [1, out, size x size x in].
void convolution(const Tensor& x, const Tensor& weight, const Tensor& bias, const Window& window,
                 Activation activation, const Tensor& y, const Tensor& derivative, const Tensor& scratch,
                 RowBits bits = RowBits::fastest, const Tensor& panels = {});

/// dx (=, +=), shaped like x, from dz, the gradient before the activation, shaped like y.
void convolution_backward_input(const Tensor& dz, const Tensor& weight, const Window& window,
                                const Tensor& dx, Write write, const Tensor& scratch);

/// Accumulates dweight and, if defined, dbias.
void convolution_backward_parameters(const Tensor& dz, const Tensor& x, const Window& window,
                                     const Tensor& dweight, const Tensor& dbias, const Tensor& scratch);

/// CUDA implementations, called by the functions above: cuDNN's convolutions, and a pass over y for bias and
/// activation. They follow conclave::precision() as described above; see core/cuda/dnn.h.
namespace cuda {
void convolution(const Tensor& x, const Tensor& weight, const Tensor& bias, const Window& window,
                 Activation activation, const Tensor& y, const Tensor& derivative, RowBits bits);
void convolution_backward_input(const Tensor& dz, const Tensor& weight, const Window& window,
                                const Tensor& dx, Write write);
void convolution_backward_parameters(const Tensor& dz, const Tensor& x, const Window& window,
                                     const Tensor& dweight, const Tensor& dbias);
}  // namespace cuda

}  // namespace conclave::kernels

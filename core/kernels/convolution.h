// Convolution over images (window.h) as a matrix product: the pixels under the window at one position are a
// row, of which a linear layer makes the output's pixel. The rows of some images at a time are written to
// scratch memory, as many as the caches hold, and multiplied there (Chellapilla, Puri, Simard 2006).
#pragma once

#include "core/kernels/matmul.h"
#include "core/kernels/window.h"

namespace conclave::kernels {

/// Elements of scratch memory that the functions below want for images like x: [images, height, width, in];
/// none on a CUDA device.
Index convolution_scratch(const Tensor& x, const Window& window);

/// y [images, out height, out width, out] = activation(x [images, height, width, in] under weight [out, size,
/// size, in] + bias [out]); bias may be undefined. `derivative`, like y, where defined receives
/// activation'(...) for the backward pass. `bits` are a pixel's here. On a CUDA device they may depend on the
/// number of images in any case, by which cuDNN chooses an algorithm; where they are to be independent, it
/// computes in f32 whatever conclave::precision() says. `panels` are grouped_linear's, of the weight [1, out,
/// size x size x in].
void convolution(const Tensor& x, const Tensor& weight, const Tensor& bias, const Window& window,
                 Activation activation, const Tensor& y, const Tensor& derivative, const Tensor& scratch,
                 RowBits bits = RowBits::fastest, const Tensor& panels = {});

/// dx (=, +=), like x, from dz, the gradient before the activation, like y.
void convolution_backward_input(const Tensor& dz, const Tensor& weight, const Window& window,
                                const Tensor& dx, Write write, const Tensor& scratch);

/// dweight, dbias (or undefined) accumulate.
void convolution_backward_parameters(const Tensor& dz, const Tensor& x, const Window& window,
                                     const Tensor& dweight, const Tensor& dbias, const Tensor& scratch);

/// The CUDA twins, to which those above hand over: cuDNN's convolutions, with a pass over y for a bias and an
/// activation. They follow conclave::precision() as above; see core/cuda/dnn.h.
namespace cuda {
void convolution(const Tensor& x, const Tensor& weight, const Tensor& bias, const Window& window,
                 Activation activation, const Tensor& y, const Tensor& derivative, RowBits bits);
void convolution_backward_input(const Tensor& dz, const Tensor& weight, const Window& window,
                                const Tensor& dx, Write write);
void convolution_backward_parameters(const Tensor& dz, const Tensor& x, const Window& window,
                                     const Tensor& dweight, const Tensor& dbias);
}  // namespace cuda

}  // namespace conclave::kernels

// The mean squared error of a regression, as of flow matching's velocities (Lipman et al. 2022,
// arXiv:2210.02747, eq. 9).
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// losses [rows] = mean over columns of (prediction - target)^2, both [rows, columns].
void squared_error(const Tensor& prediction, const Tensor& target, const Tensor& losses);

/// dprediction (=, +=) dlosses [rows] times 2 / columns (prediction - target).
void squared_error_backward(const Tensor& dlosses, const Tensor& prediction, const Tensor& target,
                            const Tensor& dprediction, Write write);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void squared_error(const Tensor& prediction, const Tensor& target, const Tensor& losses);
void squared_error_backward(const Tensor& dlosses, const Tensor& prediction, const Tensor& target,
                            const Tensor& dprediction, Write write);
}  // namespace cuda

}  // namespace conclave::kernels

// The squared hinge loss of a linear classifier, one class against the rest: the loss of an L2-SVM (Tang
// 2013, arXiv:1306.0239, eq. 10).
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// losses [rows] = mean over classes c of max(0, 1 - t_c s_c)^2, for scores s [rows, classes], with t_c = 1
/// for the label and -1 for the others. labels [rows] i32. Throws Error on a label outside [0, classes); on a
/// CUDA device, that row's loss is NaN instead.
void squared_hinge(const Tensor& scores, const Tensor& labels, const Tensor& losses);

/// dscores (=, +=) dlosses [rows] times -2 / classes t_c max(0, 1 - t_c s_c).
void squared_hinge_backward(const Tensor& dlosses, const Tensor& scores, const Tensor& labels,
                            const Tensor& dscores, Write write);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void squared_hinge(const Tensor& scores, const Tensor& labels, const Tensor& losses);
void squared_hinge_backward(const Tensor& dlosses, const Tensor& scores, const Tensor& labels,
                            const Tensor& dscores, Write write);
}  // namespace cuda

}  // namespace conclave::kernels

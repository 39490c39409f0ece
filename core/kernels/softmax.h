// Softmax over rows, and the cross-entropy that follows it in a classifier (with label smoothing, Szegedy et
// al. 2016, eq. 7 of section 7).
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// y [rows, columns] = softmax of each row of x. lse [rows], where defined, receives log sum exp of each row.
/// A score to which kMaskingScore (vector_math.h) was added has the share 0.
void softmax(const Tensor& x, const Tensor& y, const Tensor& lse);

/// dx (=, +=) y (dy - <dy, y>) for each row.
void softmax_backward(const Tensor& dy, const Tensor& y, const Tensor& dx, Write write);

/// losses [rows] = -sum_c q_c log softmax(logits)_c with q = (1 - smoothing) onehot(label) + smoothing /
/// classes; probabilities [rows, classes] receives the softmax; correct [rows] u8 receives 1 where the label
/// has the largest logit and the row's softmax is not NaN. labels [rows] i32. Throws Error on a label outside
/// [0, classes); on a CUDA device, that row's loss is NaN instead.
void cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing, const Tensor& losses,
                   const Tensor& probabilities, const Tensor& correct);

/// dlogits (=, +=) dlosses [rows] (probabilities - q).
void cross_entropy_backward(const Tensor& dlosses, const Tensor& probabilities, const Tensor& labels,
                            double smoothing, const Tensor& dlogits, Write write);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void softmax(const Tensor& x, const Tensor& y, const Tensor& lse);
void softmax_backward(const Tensor& dy, const Tensor& y, const Tensor& dx, Write write);
void cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing, const Tensor& losses,
                   const Tensor& probabilities, const Tensor& correct);
void cross_entropy_backward(const Tensor& dlosses, const Tensor& probabilities, const Tensor& labels,
                            double smoothing, const Tensor& dlogits, Write write);
}  // namespace cuda

}  // namespace conclave::kernels

// Group normalization (Wu & He 2018) and batch normalization (Ioffe & Szegedy 2015) of images, between the
// passes of channels.h: from the moments of channels to the table by which they are scaled, y = (x - centre)
// factor + beta, and from the dots of their gradients to that of the gradient of x.
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// From channel_moments of images with `pixels` pixels each: centre, rstd and factor = rstd gamma, all
/// [images, channels], where channels of a group of channels / groups have mean and 1 / deviation in common.
/// gamma [channels].
void group_norm_table(const Tensor& mean, const Tensor& squares, Index pixels, Index groups, double epsilon,
                      const Tensor& gamma, const Tensor& centre, const Tensor& rstd, const Tensor& factor);

/// From channel_dots (of dz and x, by `centre`): slope and addend [images, channels] of
/// scale_channels_backward; dgamma, dbeta [channels] accumulate.
void group_norm_backward_table(const Tensor& sums, const Tensor& dots, Index pixels, Index groups,
                               const Tensor& gamma, const Tensor& rstd, const Tensor& slope,
                               const Tensor& addend, const Tensor& dgamma, const Tensor& dbeta);

/// totals [2, channels] f64: of x, and of x², over all pixels of this process.
void batch_norm_totals(const Tensor& mean, const Tensor& squares, Index pixels, const Tensor& totals);

/// From the totals of `count` pixels, of all processes: centre, rstd and factor [1, channels]. The running
/// mean and variance [channels] go the part `momentum` of the way to this batch's, whose variance is
/// corrected by count / (count - 1) for it.
void batch_norm_table(const Tensor& totals, double count, double epsilon, const Tensor& gamma,
                      const Tensor& centre, const Tensor& rstd, const Tensor& factor,
                      const Tensor& running_mean, const Tensor& running_variance, double momentum);

/// The same three from the running mean and variance, for inference.
void batch_norm_running_table(const Tensor& running_mean, const Tensor& running_variance, double epsilon,
                              const Tensor& gamma, const Tensor& centre, const Tensor& rstd,
                              const Tensor& factor);

/// From channel_dots: totals [2, channels] f64 over this process's images; dgamma, dbeta [channels]
/// accumulate these.
void batch_norm_backward_totals(const Tensor& sums, const Tensor& dots, const Tensor& rstd,
                                const Tensor& totals, const Tensor& dgamma, const Tensor& dbeta);

/// From those of all processes: slope and addend [1, channels] of scale_channels_backward.
void batch_norm_backward_table(const Tensor& totals, double count, const Tensor& gamma, const Tensor& rstd,
                               const Tensor& slope, const Tensor& addend);

/// The CUDA twins, to which those above hand over.
namespace cuda {
void group_norm_table(const Tensor& mean, const Tensor& squares, Index pixels, Index groups, double epsilon,
                      const Tensor& gamma, const Tensor& centre, const Tensor& rstd, const Tensor& factor);
void group_norm_backward_table(const Tensor& sums, const Tensor& dots, Index pixels, Index groups,
                               const Tensor& gamma, const Tensor& rstd, const Tensor& slope,
                               const Tensor& addend, const Tensor& dgamma, const Tensor& dbeta);
void batch_norm_totals(const Tensor& mean, const Tensor& squares, Index pixels, const Tensor& totals);
void batch_norm_table(const Tensor& totals, double count, double epsilon, const Tensor& gamma,
                      const Tensor& centre, const Tensor& rstd, const Tensor& factor,
                      const Tensor& running_mean, const Tensor& running_variance, double momentum);
void batch_norm_running_table(const Tensor& running_mean, const Tensor& running_variance, double epsilon,
                              const Tensor& gamma, const Tensor& centre, const Tensor& rstd,
                              const Tensor& factor);
void batch_norm_backward_totals(const Tensor& sums, const Tensor& dots, const Tensor& rstd,
                                const Tensor& totals, const Tensor& dgamma, const Tensor& dbeta);
void batch_norm_backward_table(const Tensor& totals, double count, const Tensor& gamma, const Tensor& rstd,
                               const Tensor& slope, const Tensor& addend);
}  // namespace cuda

}  // namespace conclave::kernels

// Group normalization (Wu & He 2018) and batch normalization (Ioffe & Szegedy 2015) of images: the steps
// between the passes of channels.h. The forward step turns channel moments into the table for y = (x -
// centre) factor + beta; the backward step turns channel dots into the table for the gradient of x.
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// From channel_moments of images with `pixels` pixels each: centre, rstd and factor = rstd gamma, all
/// [images, channels]. The channels of a group, channels / groups of them, share mean and rstd (1 /
/// deviation). gamma [channels].
void group_norm_table(const Tensor& mean, const Tensor& squares, Index pixels, Index groups, double epsilon,
                      const Tensor& gamma, const Tensor& centre, const Tensor& rstd, const Tensor& factor);

/// From channel_dots (of dz and x, with `centre`): slope and addend [images, channels] for
/// scale_channels_backward. Accumulates dgamma, dbeta [channels].
void group_norm_backward_table(const Tensor& sums, const Tensor& dots, Index pixels, Index groups,
                               const Tensor& gamma, const Tensor& rstd, const Tensor& slope,
                               const Tensor& addend, const Tensor& dgamma, const Tensor& dbeta);

/// totals [2, channels] f64: the sums of x and of x² over all pixels of this process.
void batch_norm_totals(const Tensor& mean, const Tensor& squares, Index pixels, const Tensor& totals);

/// From the totals of all processes, over `count` pixels: centre, rstd and factor [1, channels]. The running
/// mean and variance [channels] move by the fraction `momentum` towards this batch's, with the batch's
/// variance corrected by count / (count - 1).
void batch_norm_table(const Tensor& totals, double count, double epsilon, const Tensor& gamma,
                      const Tensor& centre, const Tensor& rstd, const Tensor& factor,
                      const Tensor& running_mean, const Tensor& running_variance, double momentum);

/// centre, rstd and factor from the running mean and variance, for inference.
void batch_norm_running_table(const Tensor& running_mean, const Tensor& running_variance, double epsilon,
                              const Tensor& gamma, const Tensor& centre, const Tensor& rstd,
                              const Tensor& factor);

/// From channel_dots: totals [2, channels] f64 over this process's images. Adds this process's gradients to
/// dgamma, dbeta [channels].
void batch_norm_backward_totals(const Tensor& sums, const Tensor& dots, const Tensor& rstd,
                                const Tensor& totals, const Tensor& dgamma, const Tensor& dbeta);

/// From the totals of all processes: slope and addend [1, channels] for scale_channels_backward.
void batch_norm_backward_table(const Tensor& totals, double count, const Tensor& gamma, const Tensor& rstd,
                               const Tensor& slope, const Tensor& addend);

/// CUDA implementations, called by the functions above for tensors on a device.
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

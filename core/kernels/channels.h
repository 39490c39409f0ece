// What happens to each channel of an image by itself, over images [images, ..., channels] whose channels lie
// together: statistics of a channel's pixels, and a factor and an addend for it. Group and batch
// normalization and squeeze-excitation are made of these.
//
// Where a table has one row, [1, channels], it is for all images; else it is [images, channels].
#pragma once

#include "core/kernels/matmul.h"

namespace conclave::kernels {

/// Of images [images, ..., channels].
struct ImageExtents {
  Index images, pixels, channels;
  explicit ImageExtents(const Tensor& x)
      : images(x.size(0)),
        pixels(x.numel() / std::max<Index>(x.size(0) * x.size(x.rank() - 1), 1)),
        channels(x.size(x.rank() - 1)) {}
};

/// Of each image's channel: mean [images, channels], and the sum of the squared distances from it. On a CUDA
/// device their last bits may depend on how many images there are: few are divided into parts, to fill it.
void channel_moments(const Tensor& x, const Tensor& mean, const Tensor& squares);

/// y = activation((x - centre) factor + addend), y may be x; the tables may be undefined, which means 0, and
/// 1 for the factor. `derivative`, like y, where defined receives activation'(...).
void scale_channels(const Tensor& x, const Tensor& centre, const Tensor& factor, const Tensor& addend,
                    Activation activation, const Tensor& y, const Tensor& derivative);

/// What scale_channels did to x, for its backward pass: activation((x - centre) factor + addend).
struct ScaledBy {
  Tensor factor, addend;
  Activation activation = Activation::none;
};

/// sums [images, channels] = of dz over a channel's pixels; dots, of dz (x - centre). Centre may be
/// undefined, sums as well. Where there is an activation, dz is first multiplied by its derivative, in place:
/// to compute that again from x, which is read anyhow, takes less time than to fetch it from memory.
void channel_dots(const Tensor& dz, const Tensor& x, const Tensor& centre, const Tensor& sums,
                  const Tensor& dots, const ScaledBy& by = {});

/// dx (=, +=) dz factor + (x - centre) slope + addend; without `slope`, dz factor alone, whatever the others.
void scale_channels_backward(const Tensor& dz, const Tensor& x, const Tensor& centre, const Tensor& factor,
                             const Tensor& slope, const Tensor& addend, const Tensor& dx, Write write);

/// The CUDA twins, to which those above hand over.
namespace cuda {
void channel_moments(const Tensor& x, const Tensor& mean, const Tensor& squares);
void scale_channels(const Tensor& x, const Tensor& centre, const Tensor& factor, const Tensor& addend,
                    Activation activation, const Tensor& y, const Tensor& derivative);
void channel_dots(const Tensor& dz, const Tensor& x, const Tensor& centre, const Tensor& sums,
                  const Tensor& dots, const ScaledBy& by);
void scale_channels_backward(const Tensor& dz, const Tensor& x, const Tensor& centre, const Tensor& factor,
                             const Tensor& slope, const Tensor& addend, const Tensor& dx, Write write);
}  // namespace cuda

}  // namespace conclave::kernels

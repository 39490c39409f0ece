// Operations on the channels of images [images, ..., channels], each by itself; an image's channels are
// adjacent in memory. They compute statistics over a channel's pixels, and scale and shift a channel. Group
// normalization, batch normalization and squeeze-excitation consist of these.
//
// A table with one row, [1, channels], applies to all images; otherwise it is [images, channels].
#pragma once

#include "core/kernels/matmul.h"

namespace conclave::kernels {

/// The extents of images [images, ..., channels].
struct ImageExtents {
  Index images, pixels, channels;
  explicit ImageExtents(const Tensor& x)
      : images(x.size(0)),
        pixels(x.numel() / std::max<Index>(x.size(0) * x.size(x.rank() - 1), 1)),
        channels(x.size(x.rank() - 1)) {}
};

/// For each channel of each image: mean [images, channels], and the sum of the squared distances from it. On
/// a CUDA device the last bits may depend on the number of images: few images are divided into parts, to fill
/// the device.
void channel_moments(const Tensor& x, const Tensor& mean, const Tensor& squares);

/// y = activation((x - centre) factor + addend); y may be x. An undefined table stands for 0, an undefined
/// factor for 1. `derivative`, shaped like y, receives activation'(...) if defined.
void scale_channels(const Tensor& x, const Tensor& centre, const Tensor& factor, const Tensor& addend,
                    Activation activation, const Tensor& y, const Tensor& derivative);

/// The arguments of scale_channels(), for its backward pass: activation((x - centre) factor + addend).
struct ScaledBy {
  Tensor factor, addend;
  Activation activation = Activation::none;
};

/// sums [images, channels] = the sums of dz over each channel's pixels; dots = the sums of dz (x - centre).
/// centre and sums may be undefined. If there is an activation, dz is first multiplied by its derivative, in
/// place. The derivative is recomputed from x, which is read in any case: that takes less time than to load
/// it from memory.
void channel_dots(const Tensor& dz, const Tensor& x, const Tensor& centre, const Tensor& sums,
                  const Tensor& dots, const ScaledBy& by = {});

/// dx (=, +=) dz factor + (x - centre) slope + addend; if slope is undefined, dz factor alone.
void scale_channels_backward(const Tensor& dz, const Tensor& x, const Tensor& centre, const Tensor& factor,
                             const Tensor& slope, const Tensor& addend, const Tensor& dx, Write write);

/// CUDA implementations, called by the functions above for tensors on a device.
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

// A scattering transform of images (Bruna & Mallat 2013, "Invariant scattering convolution networks"), of two
// scales: fixed wavelets in place of a first convolution that is learned. It tells edges and textures at
// eight angles apart, wherever in a patch of 4 x 4 pixels they are, and as it learns of nobody, privacy costs
// it nothing (Tramer & Boneh 2021, arXiv:2011.11660).
#pragma once

#include <array>

#include "autograd/nn/module.h"

namespace conclave {

class Scattering : public Module {
 public:
  static constexpr Index kAngles = 8;
  /// Of each channel of a pixel: its mean, and the mean modulus of wavelets of both scales at all angles, and
  /// of those of the second scale of the first's.
  static constexpr Index kFeatures = 1 + 2 * kAngles + kAngles * kAngles;

  Scattering();
  /// images [images, height, width, channels] u8, in host memory -> [images, height / 4, width / 4, channels
  /// x kFeatures], f32 or f64, in host memory; sides are rounded up. Beyond the border, images are 0. Of
  /// bytes taken for 0 to 1.
  Tensor operator()(Tape& tape, const Tensor& images, DType dtype) const;
  double flops(Extent& extent) const override;

 private:
  // As weights of convolutions [out, size, size, 1]: real and imaginary parts in turn, angle by angle.
  struct Filters {
    Tensor fine, coarse;  // Morlet wavelets, whose Gaussians have deviations of 0.8 and 1.6 pixels
    Tensor mean4, mean2;  // Gaussians for means of the 4 x 4 pixels, at full and at half resolution
  };
  template <class T>
  void transform(const Filters& filters, Tape& tape, const Tensor& images, const Tensor& features) const;

  std::array<Filters, 2> filters_;  // f32, f64
};

}  // namespace conclave

// A scattering transform of images (Bruna & Mallat 2013, "Invariant scattering convolution networks") with
// two scales: fixed wavelets in place of a learned first convolution. It distinguishes edges and textures at
// eight angles, wherever they are within a patch of 4 x 4 pixels. Because it learns nothing from the data, it
// costs no privacy (Tramer & Boneh 2021, arXiv:2011.11660).
#pragma once

#include <array>

#include "autograd/nn/module.h"

namespace conclave {

class Scattering : public Module {
 public:
  static constexpr Index kAngles = 8;
  /// Features per channel: its mean, the mean modulus of the wavelets of both scales at all angles, and the
  /// mean modulus of the second scale's wavelets applied to the first scale's modulus.
  static constexpr Index kFeatures = 1 + 2 * kAngles + kAngles * kAngles;

  Scattering();
  /// images [images, height, width, channels] u8, in host memory -> [images, height / 4, width / 4, channels
  /// x kFeatures], f32 or f64, in host memory; height / 4 and width / 4 are rounded up. Bytes stand for 0 to
  /// 1; outside the border, images are 0.
  Tensor operator()(Tape& tape, const Tensor& images, DType dtype) const;
  double flops(Extent& extent) const override;

 private:
  // Weights of convolutions [out, size, size, 1]: real and imaginary parts alternate, angle by angle.
  struct Filters {
    Tensor fine, coarse;  // Morlet wavelets, whose Gaussians have deviations of 0.8 and 1.6 pixels
    Tensor mean4, mean2;  // Gaussians for means over 4 x 4 pixels, at full and at half resolution
  };
  template <class T>
  void transform(const Filters& filters, Tape& tape, const Tensor& images, const Tensor& features) const;

  std::array<Filters, 2> filters_;  // f32, f64
};

}  // namespace conclave

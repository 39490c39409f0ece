// Transforms of images: resizing to the data set's size, once, when the image is read; and random
// augmentation, each time the image is used in training. Resizer and Augmentation work on 8-bit pixels
// [height, width, channels] in the caller's memory and allocate nothing per image.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/random.h"
#include "data/image.h"

namespace conclave {

/// Resizes by a triangle filter whose radius is the larger of a source and a target pixel, which avoids
/// aliasing when an image is reduced. The result is within one level of Pillow's BILINEAR. Not thread-safe.
class Resizer {
 public:
  /// Throws Error if a size is not positive, or if `from` has an alpha channel: the invisible colours of
  /// transparent pixels would blend into the result. Use to_rgb first.
  Resizer(const ImageShape& from, std::int64_t height, std::int64_t width);

  const ImageShape& shape() const { return to_; }  ///< shape of the result
  /// `from` and `to` must not overlap. Throws Error if their sizes are not those of the two shapes.
  void resize(std::span<const std::uint8_t> from, std::span<std::uint8_t> to);

 private:
  // Weights for the pixels along one axis: target pixel i is the sum over k of weights[i * taps + k] *
  // from[first[i] + k].
  struct Axis {
    Axis(std::int64_t from_size, std::int64_t to_size);
    void resample(std::int64_t outer, std::int64_t inner, const std::uint8_t* from, std::uint8_t* to) const;

    std::int64_t from, to, taps;
    std::vector<std::int64_t> first, count;
    std::vector<std::int32_t> weights;
  };

  ImageShape from_, to_;
  Axis horizontal_, vertical_;
  std::vector<std::uint8_t> narrow_;  // [from's height, to's width, channels]
};

/// Crops the middle of `image` to the proportions of `shape`, converts it to grey or RGB (transparent pixels
/// are blended over `background`), and resizes it to `shape`. Used both for the images of a data set and for
/// those that a trained model is given.
Image fit_image(const Image& image, const ImageShape& shape, Rgb background = kWhiteBackground);

/// Decodes the PNG or JPEG file at `path` and applies fit_image. Throws Error with the file's name if it
/// cannot be read, and with `hint` if it cannot be opened.
Image read_image(const std::string& path, const ImageShape& shape,
                 std::string_view hint = "give a PNG or JPEG file");

/// Copies the middle `height` x `width` pixels of `from`. If the margin is odd, the extra row or column is
/// cut off at the bottom or the right. Throws Error if `height` or `width` exceeds that of `from`.
void centre_crop(std::span<const std::uint8_t> from, const ImageShape& shape, std::int64_t height,
                 std::int64_t width, std::span<std::uint8_t> to);

struct AugmentationOptions {
  /// Number of pixels added at every side before a window of the original size is cut out at a random place;
  /// 0: none.
  std::int64_t padding = 0;
  bool flip = false;  ///< mirror an image left to right with probability 1/2
  /// Probability of random erasing (Zhong et al. 2017): a random rectangle of 2% to 40% of the area, with an
  /// aspect ratio of 0.3 to 3.3, is overwritten.
  double erase = 0;
  bool erase_with_noise = false;          ///< true: overwrite with noise; false: with `fill`
  std::array<std::uint8_t, 4> fill = {};  ///< by channel, for padding and erased pixels; e.g. the mean
};

/// Random changes to an image in training: pad and crop, flip, erase, in this order. The random numbers
/// depend on apply()'s seed, epoch and example alone. Thread-safe.
class Augmentation {
 public:
  /// For images of this shape. Throws Error for options out of range.
  Augmentation(const ImageShape& shape, const AugmentationOptions& options);

  /// `from` and `to` must not overlap. Throws Error if their size is not that of the shape.
  void apply(std::uint64_t seed, std::int64_t epoch, std::int64_t example, std::span<const std::uint8_t> from,
             std::span<std::uint8_t> to) const;

 private:
  void move(std::int64_t down, std::int64_t right, bool flip, const std::uint8_t* from,
            std::uint8_t* to) const;
  void erase(const RandomStream& stream, std::int64_t example, std::uint8_t* pixels) const;
  void fill(RandomStream stream, std::int64_t example, std::int64_t begin, std::int64_t count,
            std::uint8_t* pixels) const;

  ImageShape shape_;
  AugmentationOptions options_;
};

}  // namespace conclave

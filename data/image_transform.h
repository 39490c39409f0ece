// From a picture to what a model is trained on: to the data set's size once, when it is read, and then
// changed at random each time it is seen. All of it works on 8-bit pixels [height, width, channels] in the
// caller's memory and allocates nothing per picture.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/image.h"

namespace conclave {

/// Resizing by a triangle filter as wide as the larger of the two pixels, which is what makes small pictures
/// of large ones without aliasing; within a level of Pillow's BILINEAR. For one thread.
class Resizer {
 public:
  /// Throws Error where a size is not positive, or `from` has an alpha channel: the colours of transparent
  /// pixels, which nobody sees, would come in. to_rgb takes them out.
  Resizer(const ImageShape& from, std::int64_t height, std::int64_t width);

  const ImageShape& shape() const { return to_; }  ///< of the result
  /// `from` and `to` must not overlap. Throws Error where they are not of the two shapes' sizes.
  void resize(std::span<const std::uint8_t> from, std::span<std::uint8_t> to);

 private:
  // How the pixels along one side are made: number i is the sum of weights[i * taps + k] * from[first[i] +
  // k].
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

/// The middle of `image` that has the proportions of `shape`, made grey or coloured, with what is transparent
/// over `background`, and resized to it: what a data set's pictures are made alike by, and any other that its
/// model is given.
Image fit_image(const Image& image, const ImageShape& shape, Rgb background = kWhiteBackground);

/// The same of the PNG or JPEG file at `path`. Throws Error, with the file's name, where it cannot be read;
/// with the hint where it cannot be opened.
Image read_image(const std::string& path, const ImageShape& shape,
                 std::string_view hint = "give a PNG or JPEG file");

/// Copies the middle `height` x `width` pixels of `from`; where there is an odd one over, it is cut off at
/// the bottom or the right. Throws Error where they are more than there are.
void centre_crop(std::span<const std::uint8_t> from, const ImageShape& shape, std::int64_t height,
                 std::int64_t width, std::span<std::uint8_t> to);

struct AugmentationOptions {
  /// Pixels added at every side, before a window of the old size is cut out anywhere; 0: none.
  std::int64_t padding = 0;
  bool flip = false;  ///< every second picture, left to right
  /// Probability of random erasing (Zhong et al. 2017): a rectangle of 2% to 40% of the area and sides of 0.3
  /// to 3.3 to 1, anywhere, is lost.
  double erase = 0;
  bool erase_with_noise = false;          ///< else with `fill`
  std::array<std::uint8_t, 4> fill = {};  ///< by channel, of padding and erased pixels; the mean, say
  std::uint64_t seed = 0;
};

/// Changes made to a picture in training: padded and cropped, flipped, erased, in this order. What is drawn
/// depends on the seed, the epoch and the example alone. For any number of threads.
class Augmentation {
 public:
  /// For pictures of this shape. Throws Error for options that make no sense.
  Augmentation(const ImageShape& shape, const AugmentationOptions& options);

  /// `from` and `to` must not overlap. Throws Error where they are not of the shape's size.
  void apply(std::int64_t epoch, std::int64_t example, std::span<const std::uint8_t> from,
             std::span<std::uint8_t> to) const;

 private:
  void move(std::int64_t down, std::int64_t right, bool flip, const std::uint8_t* from,
            std::uint8_t* to) const;
  void erase(std::int64_t epoch, std::int64_t example, std::uint8_t* pixels) const;
  void fill(std::int64_t epoch, std::int64_t example, std::int64_t begin, std::int64_t count,
            std::uint8_t* pixels) const;

  ImageShape shape_;
  AugmentationOptions options_;
};

}  // namespace conclave

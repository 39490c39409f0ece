// Pictures of 8 bits per channel, and the PNG and JPEG files they come in. libpng and libjpeg-turbo read the
// files; what reaches them is bounded here first, so that a hostile file costs no more memory than an honest
// one of its size.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace conclave {

struct ImageShape {
  std::int64_t height = 0, width = 0, channels = 0;

  std::int64_t size() const { return height * width * channels; }
  bool operator==(const ImageShape&) const = default;
};

/// Row by row from the top, the channels of a pixel together: 1 is grey, 3 red, green and blue, 4 those and
/// alpha (not premultiplied; 255 is opaque).
struct Image {
  ImageShape shape;
  std::vector<std::uint8_t> pixels;  ///< [height, width, channels]
};

using Rgb = std::array<std::uint8_t, 3>;
inline constexpr Rgb kWhiteBackground{255, 255, 255}, kBlackBackground{0, 0, 0};

inline constexpr std::int64_t kMostPixels = std::int64_t{64} << 20;  ///< far above any camera's

/// More pixels than were to be read.
class ImageTooLarge : public Error {
 public:
  using Error::Error;
};

/// The picture in `bytes`, a PNG or JPEG file as its first bytes say. Grey stays grey; palettes become
/// colours, transparency an alpha channel, and 16 bits 8. A PNG's gamma is undone, so that all are sRGB; a
/// JPEG is turned and mirrored as its EXIF orientation says, and left as it is where that is malformed.
/// Throws Error, which begins with `name`, for another format, a damaged or truncated file (also where
/// libjpeg would only warn and make pixels up), a CMYK JPEG, one of so many scans that it would take seconds,
/// and ImageTooLarge for more than `most_pixels`. `before` is told its shape, before it is turned, before
/// there is memory for that, and may wait, or throw.
Image decode_image(
    std::string_view bytes, std::string_view name, std::int64_t most_pixels = kMostPixels,
    const std::function<void(const ImageShape& shape)>& before = [](const ImageShape&) {});

/// `image` as a PNG file, without loss.
std::string encode_png(const Image& image);

/// Red, green and blue of any image: grey thrice, and what is transparent over `background`.
Image to_rgb(const Image& image, Rgb background = kWhiteBackground);

/// One channel of any image: the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, after to_rgb.
Image to_grey(const Image& image, Rgb background = kWhiteBackground);

}  // namespace conclave

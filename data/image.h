// Images of 8 bits per channel, and the PNG and JPEG files that store them. libpng and libjpeg-turbo decode
// the files. This code checks bounds first, so that a hostile file costs no more memory than an honest file
// of its size.
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

/// Pixels are stored row by row from the top, the channels of a pixel together. 1 channel is grey; 3 are red,
/// green and blue; 4 are red, green, blue and alpha (not premultiplied; 255 is opaque).
struct Image {
  ImageShape shape;
  std::vector<std::uint8_t> pixels;  ///< [height, width, channels]
};

using Rgb = std::array<std::uint8_t, 3>;
inline constexpr Rgb kWhiteBackground{255, 255, 255}, kBlackBackground{0, 0, 0};

inline constexpr std::int64_t kMostPixels = std::int64_t{64} << 20;  ///< far more than a camera's image has

/// The image has more pixels than the caller allows.
class ImageTooLarge : public Error {
 public:
  using Error::Error;
};

/// Decodes `bytes`, a PNG or JPEG file; its first bytes tell which. Grey stays grey; palettes become RGB,
/// transparency becomes an alpha channel, and 16 bits become 8. A PNG's gamma is undone, so that all pixels
/// are sRGB. A JPEG is rotated and mirrored as its EXIF orientation says; a malformed orientation is ignored.
/// Throws Error, with a message that begins with `name`, for another format, a damaged or truncated file
/// (also where libjpeg would only warn and invent pixels), a CMYK JPEG, and a JPEG with so many scans that
/// decoding would take seconds. Throws ImageTooLarge for more than `most_pixels` pixels. `before` is called
/// with the shape before rotation, before memory for the pixels is allocated; it may block or throw.
Image decode_image(
    std::string_view bytes, std::string_view name, std::int64_t most_pixels = kMostPixels,
    const std::function<void(const ImageShape& shape)>& before = [](const ImageShape&) {});

/// Encodes `image` as a PNG file, without loss.
std::string encode_png(const Image& image);

/// Converts any image to 3 channels: grey is copied to all three, and transparent pixels are blended over
/// `background`.
Image to_rgb(const Image& image, Rgb background = kWhiteBackground);

/// Converts any image to 1 channel: the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, of to_rgb's
/// result.
Image to_grey(const Image& image, Rgb background = kWhiteBackground);

}  // namespace conclave

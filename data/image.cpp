#include "data/image.h"

#include <png.h>
#include <turbojpeg.h>
#include <zlib.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "core/error.h"

namespace conclave {
namespace {

constexpr std::string_view kPngSignature = "\x89PNG\r\n\x1A\n", kJpegSignature = "\xFF\xD8\xFF";

// Deflate expands one byte to at most 1,032 bytes of 8 pixels each; a JPEG needs at least one bit for every
// 64 pixels.
constexpr std::int64_t kMostPixelsPerByte = 8 * 1032;

const unsigned char* data_of(std::string_view bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

void check_size(std::int64_t height, std::int64_t width, std::string_view bytes, std::string_view name,
                std::int64_t most_pixels) {
  require(height >= 1 && width >= 1, "{}: {} x {} pixels (height x width)", name, height, width);
  if (width > most_pixels / height)
    throw ImageTooLarge(fmt::format("{}: {} x {} pixels (height x width), above the limit of {}", name,
                                    height, width, most_pixels));
  require(height * width / kMostPixelsPerByte <= static_cast<std::int64_t>(bytes.size()),
          "{}: {} x {} pixels (height x width) cannot be in a file of {} bytes; it is damaged", name, height,
          width, bytes.size());
}

// libpng stops after the pixels, so it misses truncation or damage behind them, and it does not report
// positions. It also inflates and keeps up to a thousand text chunks of 8 MB each before the pixels. This
// function checks all chunks and returns the file without the ancillary chunks that do not affect pixels, or
// "" if there are none.
std::string without_remarks(std::string_view bytes, std::string_view name) {
  constexpr std::string_view kOfPixels[] = {"tRNS", "gAMA", "cHRM", "sRGB", "iCCP"};
  std::string kept;
  std::size_t copied = 0;  // bytes of the file that were copied or left out
  std::size_t offset = kPngSignature.size();
  const auto number = [&](std::size_t at) {
    const unsigned char* p = data_of(bytes) + at;
    return std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | p[3];
  };
  for (bool end = false; !end;) {
    const std::size_t left = bytes.size() - offset;
    require(left >= 12 && number(offset) <= left - 12,
            "{}: the PNG chunk at byte {} goes on after the end of the file, byte {}; the file is truncated",
            name, offset, bytes.size());
    const std::uint32_t length = number(offset);
    const std::string_view typed = bytes.substr(offset + 4, length + std::size_t{4});
    require(crc32_z(0, data_of(typed), typed.size()) == number(offset + 8 + length),
            "{}: the PNG chunk at byte {} has a wrong checksum; the file is damaged", name, offset);
    end = typed.starts_with("IEND");
    const bool critical = (typed[0] & 0x20) == 0;
    const std::size_t next = offset + length + std::size_t{12};
    if (!critical && std::ranges::find(kOfPixels, typed.substr(0, 4)) == std::end(kOfPixels)) {
      kept.append(bytes, copied, offset - copied);
      copied = next;
    }
    offset = next;
  }
  return copied == 0 ? "" : kept.append(bytes, copied, offset - copied);
}

// State of libpng's simplified interface, for reading or writing; this interface handles longjmp internally.
struct Png {
  png_image image{};
  Png() { image.version = PNG_IMAGE_VERSION; }
  ~Png() { png_image_free(&image); }
  Png(const Png&) = delete;
  Png& operator=(const Png&) = delete;
};

using Before = std::function<void(const ImageShape& shape)>;

Image decode_png(std::string_view bytes, std::string_view name, std::int64_t most_pixels,
                 const Before& before) {
  const std::string kept = without_remarks(bytes, name);
  const std::string_view read = kept.empty() ? bytes : kept;
  Png png;
  const auto check = [&](int succeeded) {
    require(succeeded != 0, "{}: not a good PNG file ({})", name, png.image.message);
  };
  check(png_image_begin_read_from_memory(&png.image, read.data(), read.size()));
  check_size(png.image.height, png.image.width, bytes, name, most_pixels);
  const bool alpha = (png.image.format & PNG_FORMAT_FLAG_ALPHA) != 0;
  const bool colour = (png.image.format & PNG_FORMAT_FLAG_COLOR) != 0;
  png.image.format = alpha ? PNG_FORMAT_RGBA : colour ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
  png.image.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;  // default without a gamma: linear
  Image image{{png.image.height, png.image.width, alpha ? 4 : colour ? 3 : 1}, {}};
  before(image.shape);
  image.pixels.resize(static_cast<std::size_t>(image.shape.size()));
  check(png_image_finish_read(&png.image, nullptr, image.pixels.data(), 0, nullptr));
  return image;
}

// Each scan of a progressive JPEG covers all pixels but may take only a few bytes, so many scans make
// decoding slow. Encoders write about ten.
constexpr std::int64_t kMostScans = 32, kPixelsOfAnyScans = std::int64_t{1} << 20;

// Properties of a file that libjpeg does not report before decoding.
struct JpegMarkers {
  std::int64_t scans = 0;
  unsigned orientation = 1;  // EXIF's number; 1 is upright
};

// The orientation in EXIF's TIFF data; 1 if it is missing or malformed.
unsigned exif_orientation(std::string_view tiff) {
  constexpr std::size_t kOrientation = 0x0112, kShort = 3, kEntry = 12;
  const bool little = tiff.starts_with(std::string_view("II*\0", 4));
  if (!little && !tiff.starts_with(std::string_view("MM\0*", 4))) return 1;
  const auto number = [&](std::size_t at, std::size_t size) {  // 0 if out of bounds
    std::size_t value = 0;
    if (at <= tiff.size() && size <= tiff.size() - at)
      for (std::size_t i = 0; i < size; ++i)
        value = value << 8 | data_of(tiff)[little ? at + size - 1 - i : at + i];
    return value;
  };
  const std::size_t directory = number(4, 4), entries = number(directory, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + i * kEntry;
    if (number(entry, 2) != kOrientation) continue;
    const std::size_t value = number(entry + 8, 2);
    const bool sound = number(entry + 2, 2) == kShort && number(entry + 4, 4) == 1;
    return sound && value >= 1 && value <= 8 ? static_cast<unsigned>(value) : 1;
  }
  return 1;
}

// Walks the markers as libjpeg does and stops where libjpeg stops.
JpegMarkers find_markers(std::string_view bytes) {
  constexpr std::string_view kExif("Exif\0\0", 6);
  constexpr unsigned kScan = 0xDA, kEnd = 0xD9, kApplication1 = 0xE1;
  JpegMarkers found;
  bool oriented = false;
  std::size_t at = 0;
  while ((at = bytes.find('\xFF', at)) != std::string_view::npos) {
    at = bytes.find_first_not_of('\xFF', at);  // a marker may be preceded by any number of fill bytes
    if (at == std::string_view::npos) break;
    const unsigned marker = data_of(bytes)[at++];
    if (marker == kEnd) break;
    if (marker <= 0x01 || (marker >= 0xD0 && marker <= 0xD8)) continue;  // no segment follows, or pixel data
    if (bytes.size() - at < 2) break;
    const std::size_t length = std::size_t{data_of(bytes)[at]} << 8 | data_of(bytes)[at + 1];
    if (length < 2 || length > bytes.size() - at) break;
    const std::string_view segment = bytes.substr(at + 2, length - 2);
    if (marker == kScan) ++found.scans;
    if (marker == kApplication1 && !oriented && segment.starts_with(kExif)) {
      found.orientation = exif_orientation(segment.substr(kExif.size()));
      oriented = true;
    }
    at += length;
  }
  return found;
}

// Rotates and mirrors `image` according to EXIF's orientation.
Image upright(Image image, unsigned orientation) {
  if (orientation == 1) return image;
  const std::int64_t height = image.shape.height, width = image.shape.width, channels = image.shape.channels;
  const bool turned = orientation >= 5;  // rows and columns are exchanged
  const bool rows_back = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool columns_back = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  Image result{turned ? ImageShape{width, height, channels} : image.shape, {}};
  result.pixels.resize(image.pixels.size());
  const auto pixel = [&](std::int64_t y, std::int64_t x) {
    const std::int64_t row = turned ? x : y, column = turned ? y : x;
    const std::int64_t from_row = rows_back ? height - 1 - row : row;
    const std::int64_t from_column = columns_back ? width - 1 - column : column;
    return image.pixels.data() + (from_row * width + from_column) * channels;
  };
  // Work in square tiles: a transposition row by row would touch another cache line for each pixel.
  constexpr std::int64_t kSide = 32;
  const std::int64_t rows = result.shape.height, columns = result.shape.width;
  for (std::int64_t top = 0; top < rows; top += kSide)
    for (std::int64_t left = 0; left < columns; left += kSide)
      for (std::int64_t y = top; y < std::min(top + kSide, rows); ++y)
        for (std::int64_t x = left; x < std::min(left + kSide, columns); ++x)
          std::copy_n(pixel(y, x), channels, result.pixels.data() + (y * columns + x) * channels);
  return result;
}

struct DestroyJpeg {
  void operator()(void* handle) const { tjDestroy(handle); }
};

Image decode_jpeg(std::string_view bytes, std::string_view name, std::int64_t most_pixels,
                  const Before& before) {
  // TurboJPEG, like libpng's simplified interface, handles longjmp internally.
  const std::unique_ptr<void, DestroyJpeg> jpeg(tjInitDecompress());
  const auto check = [&](int status) {
    require(status == 0, "{}: not a good JPEG file ({})", name, tjGetErrorStr2(jpeg.get()));
  };
  const auto size = static_cast<unsigned long>(bytes.size());
  int width = 0, height = 0, subsampling = 0, colours = 0;
  check(tjDecompressHeader3(jpeg.get(), data_of(bytes), size, &width, &height, &subsampling, &colours));
  check_size(height, width, bytes, name, most_pixels);
  require(colours != TJCS_CMYK && colours != TJCS_YCCK,
          "{}: a JPEG of printer's colours (CMYK); convert it, e.g. with `convert -colorspace sRGB`", name);
  const JpegMarkers markers = find_markers(bytes);
  require(markers.scans <= kMostScans || std::int64_t{height} * width <= kPixelsOfAnyScans,
          "{}: {} scans of {} x {} pixels (height x width); above {} pixels, a JPEG may have at most {} "
          "scans. Save it again, e.g. with `convert -interlace none`",
          name, markers.scans, height, width, kPixelsOfAnyScans, kMostScans);
  const bool grey = colours == TJCS_GRAY;
  Image image{{height, width, grey ? 1 : 3}, {}};
  before(image.shape);
  image.pixels.resize(static_cast<std::size_t>(image.shape.size()));
  // TJFLAG_LIMITSCANS: small images are not limited above and can have thousands of scans.
  check(tjDecompress2(jpeg.get(), data_of(bytes), size, image.pixels.data(), width, 0, height,
                      grey ? TJPF_GRAY : TJPF_RGB,
                      TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS));
  return upright(std::move(image), markers.orientation);
}

void check_image(const Image& image, std::string_view operation) {
  const ImageShape& shape = image.shape;
  require(shape.channels == 1 || shape.channels == 3 || shape.channels == 4,
          "{}: {} channels; an image has 1, 3 or 4", operation, shape.channels);
  require(std::cmp_equal(image.pixels.size(), shape.size()), "{}: {} bytes for {} x {} x {}", operation,
          image.pixels.size(), shape.height, shape.width, shape.channels);
}

// a * b / 255 + c * (255 - b) / 255, rounded.
std::uint8_t blend(unsigned a, unsigned b, unsigned c) {
  return static_cast<std::uint8_t>((a * b + c * (255 - b) + 127) / 255);
}

}  // namespace

Image decode_image(std::string_view bytes, std::string_view name, std::int64_t most_pixels,
                   const Before& before) {
  if (bytes.starts_with(kPngSignature)) return decode_png(bytes, name, most_pixels, before);
  require(bytes.starts_with(kJpegSignature), "{}: neither a PNG nor a JPEG file, as its first bytes show",
          name);
  return decode_jpeg(bytes, name, most_pixels, before);
}

std::string encode_png(const Image& image) {
  const ImageShape& shape = image.shape;
  check_image(image, "encode_png");
  Png png;
  png.image.height = static_cast<png_uint_32>(shape.height);
  png.image.width = static_cast<png_uint_32>(shape.width);
  png.image.format = shape.channels == 1   ? PNG_FORMAT_GRAY
                     : shape.channels == 3 ? PNG_FORMAT_RGB
                                           : PNG_FORMAT_RGBA;
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(png.image), '\0');
  png_alloc_size_t size = bytes.size();
  require(png_image_write_to_memory(&png.image, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr) != 0,
          "encode_png: {}", png.image.message);
  bytes.resize(size);
  return bytes;
}

Image to_rgb(const Image& image, Rgb background) {
  check_image(image, "to_rgb");
  const auto channels = static_cast<std::size_t>(image.shape.channels);
  if (channels == 3) return image;
  Image rgb{{image.shape.height, image.shape.width, 3}, {}};
  rgb.pixels.resize(static_cast<std::size_t>(rgb.shape.size()));
  const std::uint8_t *from = image.pixels.data(), *const end = from + image.pixels.size();
  for (std::uint8_t* to = rgb.pixels.data(); from < end; from += channels, to += 3)
    for (std::size_t c = 0; c < 3; ++c)
      to[c] = channels == 1 ? from[0] : blend(from[c], from[3], background[c]);
  return rgb;
}

Image to_grey(const Image& image, Rgb background) {
  if (image.shape.channels == 1) return image;
  const Image rgb = to_rgb(image, background);
  Image grey{{image.shape.height, image.shape.width, 1}, {}};
  grey.pixels.resize(static_cast<std::size_t>(grey.shape.size()));
  const std::uint8_t* from = rgb.pixels.data();
  for (std::uint8_t& to : grey.pixels) {
    const unsigned luma = from[0] * 19595u + from[1] * 38470u + from[2] * 7471u;  // in 2^-16, as Pillow
    to = static_cast<std::uint8_t>((luma + 0x8000) >> 16);
    from += 3;
  }
  return grey;
}

}  // namespace conclave

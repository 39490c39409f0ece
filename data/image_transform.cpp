#include "data/image_transform.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/random.h"

namespace conclave {
namespace {

constexpr int kWeightBits = 22;  // a weighted sum of 8-bit pixels then fits into 31 bits

// RandomStream::tensor of the two streams; RandomStream::step is the epoch.
constexpr std::uint32_t kAugmentationStream = 0xDA7A0003, kNoiseStream = 0xDA7A0004;

// Indices of an example's random numbers: four (down, right, flip, erase), then four for each rectangle
// tried.
enum Draw : std::uint64_t { kDown, kRight, kFlip, kErase, kRectangles };
constexpr std::uint64_t kTries = 10;  // a drawn rectangle may not fit into the image
constexpr std::uint64_t kDraws = kRectangles + 4 * kTries;
constexpr double kLeastArea = 0.02, kMostArea = 0.4, kLeastAspect = 0.3;

void require_size(const char* what, std::span<const std::uint8_t> pixels, const ImageShape& shape) {
  require(std::cmp_equal(pixels.size(), shape.size()), "{}: {} bytes for {} x {} x {} pixels", what,
          pixels.size(), shape.height, shape.width, shape.channels);
}

std::int64_t below(const RandomStream& stream, std::int64_t bound, std::uint64_t index) {
  return static_cast<std::int64_t>(stream.below(static_cast<std::uint64_t>(bound), index));
}

const ImageShape& checked(const ImageShape& from, std::int64_t height, std::int64_t width) {
  require(from.height >= 1 && from.width >= 1 && height >= 1 && width >= 1,
          "Resizer: from {} x {} pixels to {} x {}; a picture has at least one", from.height, from.width,
          height, width);
  require(from.channels == 1 || from.channels == 3,
          "Resizer: pictures of {} channels; only 1 or 3 can be resized, convert 4 with to_rgb",
          from.channels);
  return from;
}

}  // namespace

Resizer::Axis::Axis(std::int64_t from_size, std::int64_t to_size) : from(from_size), to(to_size) {
  const double scale = static_cast<double>(from) / static_cast<double>(to), radius = std::max(scale, 1.0);
  taps = 2 * static_cast<std::int64_t>(std::ceil(radius)) + 1;
  weights.resize(static_cast<std::size_t>(to * taps));
  std::vector<double> exact(static_cast<std::size_t>(taps));
  for (std::int64_t i = 0; i < to; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const auto begin = std::max<std::int64_t>(static_cast<std::int64_t>(centre - radius + 0.5), 0);
    const auto end = std::min(static_cast<std::int64_t>(centre + radius + 0.5), from);
    double sum = 0;
    for (std::int64_t k = begin; k < end; ++k)
      sum += exact[static_cast<std::size_t>(k - begin)] =
          std::max(0.0, 1.0 - std::abs(static_cast<double>(k) + 0.5 - centre) / radius);
    for (std::int64_t k = begin; k < end; ++k)
      weights[static_cast<std::size_t>(i * taps + k - begin)] = static_cast<std::int32_t>(
          std::lround(exact[static_cast<std::size_t>(k - begin)] / sum * (1 << kWeightBits)));
    first.push_back(begin);
    count.push_back(end - begin);
  }
}

// source [outer, from, inner] -> target [outer, to, inner]
void Resizer::Axis::resample(std::int64_t outer, std::int64_t inner, const std::uint8_t* source,
                             std::uint8_t* target) const {
  for (std::int64_t o = 0; o < outer; ++o)
    for (std::int64_t i = 0; i < to; ++i) {
      const std::uint8_t* pixels = source + (o * from + first[static_cast<std::size_t>(i)]) * inner;
      const std::int32_t* weight = weights.data() + i * taps;
      for (std::int64_t j = 0; j < inner; ++j) {
        std::int32_t sum = 1 << (kWeightBits - 1);
        for (std::int64_t k = 0; k < count[static_cast<std::size_t>(i)]; ++k)
          sum += weight[k] * pixels[k * inner + j];
        // Rounded weights may add up to slightly more than 1.
        *target++ = static_cast<std::uint8_t>(std::min(sum >> kWeightBits, 255));
      }
    }
}

Resizer::Resizer(const ImageShape& from, std::int64_t height, std::int64_t width)
    : from_(checked(from, height, width)),
      to_{height, width, from.channels},
      horizontal_(from.width, width),
      vertical_(from.height, height),
      narrow_(static_cast<std::size_t>(from.height * width * from.channels)) {}

void Resizer::resize(std::span<const std::uint8_t> from, std::span<std::uint8_t> to) {
  require_size("Resizer: from", from, from_);
  require_size("Resizer: to", to, to_);
  horizontal_.resample(from_.height, from_.channels, from.data(), narrow_.data());
  vertical_.resample(1, to_.width * to_.channels, narrow_.data(), to.data());
}

Image fit_image(const Image& image, const ImageShape& shape, Rgb background) {
  Image opaque = shape.channels == 1 ? to_grey(image, background) : to_rgb(image, background);
  if (opaque.shape == shape) return opaque;
  const auto [height, width, channels] = opaque.shape;
  const auto at_most = [](std::int64_t size, std::int64_t other, std::int64_t wanted, std::int64_t of) {
    return std::clamp<std::int64_t>(other * wanted / of, 1, size);
  };
  Image middle{{at_most(height, width, shape.height, shape.width),
                at_most(width, height, shape.width, shape.height), channels},
               {}};
  middle.pixels.resize(static_cast<std::size_t>(middle.shape.size()));
  centre_crop(opaque.pixels, opaque.shape, middle.shape.height, middle.shape.width, middle.pixels);
  Image fitted{shape, std::vector<std::uint8_t>(static_cast<std::size_t>(shape.size()))};
  Resizer(middle.shape, shape.height, shape.width).resize(middle.pixels, fitted.pixels);
  return fitted;
}

Image read_image(const std::string& path, const ImageShape& shape, std::string_view hint) {
  return fit_image(decode_image(read_file(path, hint), path), shape);
}

void centre_crop(std::span<const std::uint8_t> from, const ImageShape& shape, std::int64_t height,
                 std::int64_t width, std::span<std::uint8_t> to) {
  require(height >= 1 && width >= 1 && height <= shape.height && width <= shape.width,
          "centre_crop: {} x {} pixels of {} x {}", height, width, shape.height, shape.width);
  require_size("centre_crop: from", from, shape);
  require_size("centre_crop: to", to, {height, width, shape.channels});
  const std::int64_t top = (shape.height - height) / 2, left = (shape.width - width) / 2;
  for (std::int64_t y = 0; y < height; ++y)
    std::copy_n(from.data() + ((top + y) * shape.width + left) * shape.channels, width * shape.channels,
                to.data() + y * width * shape.channels);
}

Augmentation::Augmentation(const ImageShape& shape, const AugmentationOptions& options)
    : shape_(shape), options_(options) {
  require(shape.height >= 1 && shape.width >= 1 && shape.channels >= 1 && shape.channels <= 4,
          "Augmentation: pictures of {} x {} x {}", shape.height, shape.width, shape.channels);
  require(options.padding >= 0 && options.padding < std::min(shape.height, shape.width),
          "Augmentation: padding of {} for pictures of {} x {}; it must be at least 0 and below both sides",
          options.padding, shape.height, shape.width);
  require(options.erase >= 0 && options.erase <= 1, "Augmentation: erase is {}, not a probability",
          options.erase);
}

// to[y, x] = from[y + down, x + right], or with `flip` the pixel mirrored left to right; `fill` outside of
// the image.
void Augmentation::move(std::int64_t down, std::int64_t right, bool flip, const std::uint8_t* from,
                        std::uint8_t* to) const {
  const auto [height, width, channels] = shape_;
  for (std::int64_t y = 0; y < height; ++y)
    for (std::int64_t x = 0; x < width; ++x, to += channels) {
      const std::int64_t row = y + down, column = (flip ? width - 1 - x : x) + right;
      const bool inside = row >= 0 && row < height && column >= 0 && column < width;
      const std::uint8_t* pixel = inside ? from + (row * width + column) * channels : options_.fill.data();
      for (std::int64_t c = 0; c < channels; ++c) to[c] = pixel[c];
    }
}

// Overwrites pixels[begin, begin + count), which are whole pixels.
void Augmentation::fill(RandomStream stream, std::int64_t example, std::int64_t begin, std::int64_t count,
                        std::uint8_t* pixels) const {
  if (!options_.erase_with_noise) {
    for (std::int64_t i = 0; i < count; ++i)
      pixels[begin + i] = options_.fill[static_cast<std::size_t>(i % shape_.channels)];
    return;
  }
  stream.tensor = kNoiseStream;
  const std::int64_t first = example * ((shape_.size() + 15) / 16);  // first block of 16 random bytes
  std::array<std::uint32_t, 4> block{};
  for (std::int64_t at = begin; at < begin + count; ++at) {
    if (at == begin || at % 16 == 0) block = stream.bits(static_cast<std::uint64_t>(first + at / 16));
    pixels[at] = static_cast<std::uint8_t>(block[static_cast<std::size_t>(at % 16 / 4)] >> (at % 4 * 8));
  }
}

void Augmentation::erase(const RandomStream& stream, std::int64_t example, std::uint8_t* pixels) const {
  const auto [height, width, channels] = shape_;
  std::uint64_t draw = static_cast<std::uint64_t>(example) * kDraws + kRectangles;
  for (std::uint64_t tried = 0; tried < kTries; ++tried, draw += 4) {
    const double area =
        (kLeastArea + (kMostArea - kLeastArea) * stream.uniform(draw)) * static_cast<double>(height * width);
    // The logarithm of the aspect ratio is uniform, so that tall and wide rectangles are equally likely.
    const double aspect = std::pow(kLeastAspect, 1 - 2 * stream.uniform(draw + 1));
    const std::int64_t tall = std::lround(std::sqrt(area * aspect)),
                       wide = std::lround(std::sqrt(area / aspect));
    if (tall < 1 || wide < 1 || tall > height || wide > width) continue;
    const std::int64_t top = below(stream, height - tall + 1, draw + 2);
    const std::int64_t left = below(stream, width - wide + 1, draw + 3);
    for (std::int64_t y = top; y < top + tall; ++y)
      fill(stream, example, (y * width + left) * channels, wide * channels, pixels);
    return;
  }
}

void Augmentation::apply(std::uint64_t seed, std::int64_t epoch, std::int64_t example,
                         std::span<const std::uint8_t> from, std::span<std::uint8_t> to) const {
  require_size("Augmentation: from", from, shape_);
  require_size("Augmentation: to", to, shape_);
  const RandomStream stream{seed, static_cast<std::uint32_t>(epoch), kAugmentationStream};
  const std::uint64_t first = static_cast<std::uint64_t>(example) * kDraws;
  const auto shift = [&](Draw draw) {
    return below(stream, 2 * options_.padding + 1, first + draw) - options_.padding;
  };
  move(shift(kDown), shift(kRight), options_.flip && stream.below(2, first + kFlip) == 1, from.data(),
       to.data());
  if (stream.uniform(first + kErase) < options_.erase) erase(stream, example, to.data());
}

}  // namespace conclave

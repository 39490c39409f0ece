// What the fuzzer feeds with bytes of its own making (scripts/fuzz), and a unit test with those kept in
// corpus/ and in tests/fixtures/images: each parser of foreign files or messages, and what is done with the
// result. A conclave::Error is right; a crash, a sanitizer's complaint, or another exception is not.
#pragma once

#include <zlib.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "data/coco.h"
#include "data/emoji.h"
#include "data/glue.h"
#include "data/idx.h"
#include "data/image_transform.h"
#include "tests/fuzz/secure_aggregation.h"

namespace conclave {

inline void use(const Image& image) {
  const Image again = decode_image(encode_png(image), "again");
  if (again.shape != image.shape || again.pixels != image.pixels)
    throw std::logic_error("a PNG is not its image");
  to_grey(image);
  const Image rgb = to_rgb(image);
  Resizer resizer(rgb.shape, 3, 5);
  std::vector<std::uint8_t> resized(static_cast<std::size_t>(resizer.shape().size()));
  resizer.resize(rgb.pixels, resized);
}

/// `bytes` with the checksum of every PNG chunk as it should be, or else nothing behind them would be
/// reached.
inline std::string with_checksums(std::string_view bytes) {
  std::string fixed(bytes);
  const auto* data = reinterpret_cast<const unsigned char*>(fixed.data());
  for (std::size_t at = 8; fixed.size() - std::min(at, fixed.size()) >= 12;) {
    const std::size_t length =
        std::size_t{data[at]} << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3];
    if (length > fixed.size() - at - 12) break;
    const auto checksum = crc32_z(0, data + at + 4, length + 4);
    for (std::size_t i = 0; i < 4; ++i)
      fixed[at + 8 + length + i] = static_cast<char>(checksum >> (24 - 8 * i));
    at += length + 12;
  }
  return fixed;
}

template <class Parse>
void with_errors_allowed(Parse parse) {
  try {
    parse();
  } catch (const Error&) {
  }
}

inline void fuzz_image(std::string_view bytes) {
  constexpr std::int64_t kMostPixelsTried = 1 << 18;  // so that a try stays short
  for (const std::string& file : {std::string(bytes), with_checksums(bytes)})
    with_errors_allowed([&] { use(decode_image(file, "image", kMostPixelsTried)); });
}

inline void fuzz_idx(std::string_view bytes) {
  with_errors_allowed([&] {
    const IdxArray array = parse_idx(bytes, "idx");
    std::int64_t size = 1;
    for (const std::int64_t extent : array.extents) size *= extent;
    if (!std::cmp_equal(array.values.size(), size))
      throw std::logic_error("values of another number than extents");
  });
}

inline void fuzz_emoji_names(std::string_view bytes) {
  with_errors_allowed([&] { parse_emoji_names(bytes, "names"); });
}

inline void fuzz_annotations(std::string_view bytes) {
  with_errors_allowed([&] { parse_annotations(bytes, "annotations"); });
}

inline void fuzz_glue(std::string_view bytes) {
  for (const GlueTask& task : glue_tasks())
    for (const bool skip : {false, true})
      with_errors_allowed([&] {
        BadInputs bad(skip);
        const auto classes = static_cast<std::int32_t>(task.class_names.size());
        for (const TextExample& example : parse_glue(bytes, "glue", task, bad))
          if (example.label < 0 || example.label >= classes || example.score.has_value() != task.has_scores())
            throw std::logic_error("a label that is none of the task's");
      });
}

inline void fuzz_coco(std::string_view bytes) {
  with_errors_allowed([&] { parse_coco_captions(bytes, "captions"); });
  with_errors_allowed([&] {
    const CocoInstances found = parse_coco_instances(bytes, "instances");
    for (const CocoImage& image : found.images)
      if (image.category < -1 || image.category >= std::ssize(found.categories))
        throw std::logic_error("a category there is not");
  });
}

inline void fuzz_font(std::string_view bytes) {
  with_errors_allowed([&] {
    const EmojiFont font(bytes, "font");
    for (const char32_t code : {U'\x1F600', U'\x1F63A'})
      if (font.has(code)) use(font.image(code));
  });
}

}  // namespace conclave

// Data sets in memory: labelled texts, images or both in three splits, first as read and then tokenized and
// packed end to end. Every column of a split has one entry per example; an example without a text has the
// empty text, one without an image has no image row.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/image.h"

namespace conclave {

struct TextExample {
  std::string text;  ///< "" in an ImageSplit: no text
  std::int32_t label = 0;
  bool in_domain = false;            ///< belongs to the domain that a recipe may name
  std::string pair = {};             ///< the second text of a pair; "": a single text
  std::optional<double> score = {};  ///< regression target that `label` was rounded from
  std::int32_t client = -1;          ///< number of the client that owns the example; -1: unknown
  /// Descriptions of the image, one per annotator; empty: only the class name describes it.
  std::vector<std::string> captions = {};
};

/// An example from a line of input. With `of_pairs`, the first tab separates the two texts.
TextExample text_example(const std::string& line, bool of_pairs);

struct TextDataset {
  std::vector<std::string> class_names;
  std::vector<TextExample> train, validation, test;
};

/// Images of one shape in one block of memory, and the image of each example. Examples may share an image,
/// e.g. the captions of one photograph.
struct ImageColumn {
  ImageShape shape;
  std::vector<std::uint8_t> pixels;  ///< [images, height, width, channels]
  std::vector<std::int32_t> rows;    ///< [examples], each one's image or -1; empty: no images

  std::int64_t size() const;  ///< number of images
  std::span<const std::uint8_t> image(std::int64_t row) const;
  /// Pixels of the example's image; empty if it has none.
  std::span<const std::uint8_t> of(std::int64_t example) const;

  /// Appends an example with an image of its own. Throws Error, with a message that begins with `name` (the
  /// image's file), if the shape differs from the images before it.
  void append(const Image& image, std::string_view name);
};

struct ImageSplit {
  std::vector<TextExample> examples;
  ImageColumn images;
};

struct ImageDataset {
  std::vector<std::string> class_names;
  ImageSplit train, validation, test;

  /// The split named "train", "validation" or "test"; throws Error for any other name.
  ImageSplit& split(std::string_view name);
};

/// Token sequences packed end to end: sequence i is tokens[offsets[i], offsets[i + 1]). A sequence may be
/// empty only for an example that has an image but no text.
struct TokenizedSplit {
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int32_t> labels;
  std::vector<std::int32_t> in_domain;  ///< 1 for texts of the domain, else 0; empty: no domain
  std::vector<std::int32_t> clients;    ///< client of each example, from 0; empty: unknown
  std::vector<double> scores;           ///< regression targets; empty: labels are classes
  ImageColumn images;

  std::int64_t size() const { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t length(std::int64_t i) const {
    return offsets[static_cast<std::size_t>(i) + 1] - offsets[static_cast<std::size_t>(i)];
  }
  std::span<const std::int32_t> sequence(std::int64_t i) const {
    return {tokens.data() + offsets[static_cast<std::size_t>(i)], static_cast<std::size_t>(length(i))};
  }
};

/// XXH3-64 of the examples' lengths and labels in their order: shows that data has changed, without reading
/// all of it.
std::uint64_t checksum_of(const TokenizedSplit& split);

/// The names of the classes without an example in `train`.
std::vector<std::string> untrained_classes(const std::vector<std::string>& class_names,
                                           std::span<const TextExample> train);

/// The first five of `names` and the number of the rest: "a, b, c, d, e and 4 more".
std::string some_of(std::span<const std::string> names);

/// The labels, domain marks and images of `split` with empty token sequences, for a data set without texts.
TokenizedSplit without_texts(ImageSplit split);

}  // namespace conclave

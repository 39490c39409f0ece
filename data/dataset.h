// A data set in memory: labelled texts, images or both in three splits, and the same once tokenized, packed
// end to end. Every column of a split has an entry for each example; what an example lacks is an empty text,
// or no image.
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
  std::string text;  ///< "" in an ImageSplit: it has none
  std::int32_t label = 0;
  bool in_domain = false;            ///< of the domain that a recipe may single out
  std::string pair = {};             ///< the second of two texts that are judged together; "": there is one
  std::optional<double> score = {};  ///< what `label` was rounded from, where a number is to be guessed
  std::int32_t client = -1;          ///< whose it is, by number, where that is known
  /// What its image shows, in each of several people's words; none: no more than its class says.
  std::vector<std::string> captions = {};
};

/// Of a line of input: where pairs are judged, a tab parts the two.
TextExample text_example(const std::string& line, bool of_pairs);

struct TextDataset {
  std::vector<std::string> class_names;
  std::vector<TextExample> train, validation, test;
};

/// Images of one shape in one block of memory, and which example has which. Examples may share one, as the
/// captions of a photograph do.
struct ImageColumn {
  ImageShape shape;
  std::vector<std::uint8_t> pixels;  ///< [images, height, width, channels]
  std::vector<std::int32_t> rows;  ///< [examples], the image of each, -1: none; or empty: no example has one

  std::int64_t size() const;  ///< images
  std::span<const std::uint8_t> image(std::int64_t row) const;
  /// The image of an example; empty where it has none.
  std::span<const std::uint8_t> of(std::int64_t example) const;

  /// A further example, with an image of its own. Throws Error, which begins with `name` (the image's file),
  /// where it is of another shape than those before.
  void append(const Image& image, std::string_view name);
};

struct ImageSplit {
  std::vector<TextExample> examples;
  ImageColumn images;
};

struct ImageDataset {
  std::vector<std::string> class_names;
  ImageSplit train, validation, test;

  /// The one of that name: "train", "validation" or "test".
  ImageSplit& split(std::string_view name) {
    return name == "train" ? train : name == "validation" ? validation : test;
  }
};

/// Token sequences packed end to end: sequence i is tokens[offsets[i], offsets[i + 1]). Only where there are
/// images may it be empty, for an example without text.
struct TokenizedSplit {
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int32_t> labels;
  std::vector<std::int32_t> in_domain;  ///< 1 for texts of the domain, else 0; or empty: none is
  std::vector<std::int32_t> clients;    ///< whose each is, by numbers from 0; or empty: nobody said
  std::vector<double> scores;           ///< what the labels were rounded from; or empty: they are classes
  ImageColumn images;

  std::int64_t size() const { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t length(std::int64_t i) const {
    return offsets[static_cast<std::size_t>(i) + 1] - offsets[static_cast<std::size_t>(i)];
  }
  std::span<const std::int32_t> sequence(std::int64_t i) const {
    return {tokens.data() + offsets[static_cast<std::size_t>(i)], static_cast<std::size_t>(length(i))};
  }
};

/// The classes that no example of `train` is of.
std::vector<std::string> untrained_classes(const std::vector<std::string>& class_names,
                                           std::span<const TextExample> train);

/// The first of `names` and how many others there are: "a, b, c and 4 more".
std::string some_of(std::span<const std::string> names);

/// The labels and images of `split`, without tokens: all that there is to a data set without texts.
TokenizedSplit without_texts(ImageSplit split);

}  // namespace conclave

#include "data/dataset.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "core/xxh3.h"

namespace conclave {

TextExample text_example(const std::string& line, bool of_pairs) {
  const std::size_t tab = of_pairs ? line.find('\t') : std::string::npos;
  if (tab == std::string::npos) return {line, 0};
  return {line.substr(0, tab), 0, false, line.substr(tab + 1)};
}

std::int64_t ImageColumn::size() const {
  return pixels.empty() ? 0 : static_cast<std::int64_t>(pixels.size()) / shape.size();
}

std::span<const std::uint8_t> ImageColumn::image(std::int64_t row) const {
  return std::span(pixels).subspan(static_cast<std::size_t>(row * shape.size()),
                                   static_cast<std::size_t>(shape.size()));
}

std::span<const std::uint8_t> ImageColumn::of(std::int64_t example) const {
  const std::int32_t row = rows.empty() ? -1 : rows[static_cast<std::size_t>(example)];
  return row < 0 ? std::span<const std::uint8_t>() : image(row);
}

ImageSplit& ImageDataset::split(std::string_view name) {
  if (name == "train") return train;
  if (name == "validation") return validation;
  require(name == "test", "no split is named '{}'; there are train, validation and test", name);
  return test;
}

void ImageColumn::append(const Image& image, std::string_view name) {
  if (pixels.empty()) shape = image.shape;
  require(
      image.shape == shape,
      "{}: image {} is {} x {} pixels of {} channels, those before it are {} x {} of {}; a data set's images "
      "are all alike",
      name, size(), image.shape.height, image.shape.width, image.shape.channels, shape.height, shape.width,
      shape.channels);
  rows.push_back(static_cast<std::int32_t>(size()));
  pixels.insert(pixels.end(), image.pixels.begin(), image.pixels.end());
}

std::vector<std::string> untrained_classes(const std::vector<std::string>& class_names,
                                           std::span<const TextExample> train) {
  std::vector<bool> trained(class_names.size());
  for (const TextExample& example : train) trained[static_cast<std::size_t>(example.label)] = true;
  std::vector<std::string> untrained;
  for (std::size_t c = 0; c < class_names.size(); ++c)
    if (!trained[c]) untrained.push_back(class_names[c]);
  return untrained;
}

std::string some_of(std::span<const std::string> names) {
  constexpr std::size_t kNamed = 5;
  const auto named = names.first(std::min(names.size(), kNamed));
  const std::string more =
      names.size() > kNamed ? fmt::format(" and {} more", names.size() - kNamed) : std::string();
  return fmt::format("{}{}", fmt::join(named, ", "), more);
}

std::uint64_t checksum_of(const TokenizedSplit& split) {
  const std::uint64_t of_lengths =
      xxh3_64(split.offsets.data(), split.offsets.size() * sizeof(split.offsets[0]));
  return xxh3_64(split.labels.data(), split.labels.size() * sizeof(split.labels[0]), of_lengths);
}

TokenizedSplit without_texts(ImageSplit split) {
  TokenizedSplit packed;
  for (const TextExample& example : split.examples) {
    packed.labels.push_back(example.label);
    packed.in_domain.push_back(example.in_domain ? 1 : 0);
  }
  packed.offsets.assign(split.examples.size() + 1, 0);
  packed.images = std::move(split.images);
  return packed;
}

}  // namespace conclave

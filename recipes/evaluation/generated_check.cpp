#include "recipes/evaluation/generated_check.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/kernels/matmul.h"

namespace conclave {
namespace {

// [images, bytes of one] as floats around 0, so that the sums below are exact to a thousandth of a byte.
Tensor floats_of(std::span<const std::uint8_t> bytes, Index size) {
  const Tensor floats = Tensor::zeros({static_cast<Index>(bytes.size()) / size, size}, DType::f32);
  std::ranges::transform(bytes, floats.data<float>(),
                         [](std::uint8_t byte) { return static_cast<float>(byte) - 127.5F; });
  return floats;
}

std::vector<double> squares_of(const Tensor& rows) {
  std::vector<double> squares;
  for (Index i = 0; i < rows.size(0); ++i) {
    double sum = 0;
    for (const float value : rows.rows(i, i + 1).span<float>()) sum += static_cast<double>(value) * value;
    squares.push_back(sum);
  }
  return squares;
}

}  // namespace

std::vector<double> recognised(Predictor& predictor, std::span<const Image> images,
                               std::span<const std::int32_t> labels, std::size_t classes) {
  std::vector<Example> examples;
  for (const Image& image : images) examples.push_back({"", "", &image});
  const std::vector<Prediction> predictions = predictor.predict(examples);
  std::vector<double> right(classes), asked(classes);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const auto label = static_cast<std::size_t>(labels[i]);
    right[label] += predictions[i].best == label;
    ++asked[label];
  }
  for (std::size_t c = 0; c < classes; ++c) right[c] /= asked[c];
  return right;
}

std::vector<double> nearest_distances(std::span<const std::uint8_t> images,
                                      std::span<const std::uint8_t> known, const ImageShape& shape) {
  constexpr Index kBlock = 4096;
  const Index size = shape.size();
  const Tensor rows = floats_of(images, size);
  const std::vector<double> squares = squares_of(rows);
  std::vector<double> nearest(squares.size(), std::numeric_limits<double>::infinity());
  const auto count = static_cast<Index>(known.size()) / size;
  for (Index first = 0; first < count; first += kBlock) {
    const Index end = std::min(first + kBlock, count);
    const Tensor block = floats_of(
        known.subspan(static_cast<std::size_t>(first * size), static_cast<std::size_t>((end - first) * size)),
        size);
    const std::vector<double> block_squares = squares_of(block);
    const Tensor products = Tensor::zeros({rows.size(0), end - first}, DType::f32);
    kernels::matmul(rows, kernels::Transpose::no, block, kernels::Transpose::yes, products, Write::assign);
    const float* product = products.data<float>();
    for (std::size_t i = 0; i < nearest.size(); ++i)
      for (const double other : block_squares)
        nearest[i] = std::min(nearest[i], squares[i] + other - 2.0 * *product++);
  }
  for (double& distance : nearest) distance = std::sqrt(std::max(distance, 0.0) / static_cast<double>(size));
  return nearest;
}

}  // namespace conclave

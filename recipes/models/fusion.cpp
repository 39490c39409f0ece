#include "recipes/models/fusion.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/kernels/reduction.h"
#include "core/kernels/vector_math.h"

namespace conclave {

Fusion::Fusion(const ModelRecipe& model) : dropout_(model.dropout) {
  if (model.fusion != "cross") return;
  add_module("attention", cross_.emplace(model.hidden, model.heads));
  image_ = &add_parameter("image", {1, 1}, Initializer::constant(std::log(model.image_weight)), false);
  text_ = &add_parameter("text", {1, 1}, Initializer::constant(std::log(1 - model.image_weight)), false);
}

Tensor Fusion::offsets(Tape& tape, const ModelInput& input) {
  const Index sequences = input.sequences();
  const auto rows = input.offsets.span<std::int32_t>(), texts = input.text_offsets.span<std::int32_t>();
  const Tensor offsets = tape.arena().empty_on_host({2 * sequences + 1}, DType::i32);
  const auto bounds = offsets.span<std::int32_t>();
  bounds[0] = 0;
  for (std::size_t s = 0; s < static_cast<std::size_t>(sequences); ++s) {
    bounds[2 * s + 1] = rows[s + 1] - (texts[s + 1] - texts[s]);
    bounds[2 * s + 2] = rows[s + 1];
  }
  return offsets;
}

Tensor Fusion::exchange(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets) const {
  if (!cross_) return x;
  const Index rows = x.size(0), sequences = (offsets.numel() - 1) / 2;
  Arena& arena = tape.arena();
  // All images' rows, then all texts' rows: `from` says where each row comes from, `to` where it goes.
  const Tensor from = arena.empty_on_host({rows, 1}, DType::i32),
               to = arena.empty_on_host({rows, 1}, DType::i32);
  const std::array own{arena.empty_on_host({sequences + 1}, DType::i32),
                       arena.empty_on_host({sequences + 1}, DType::i32)};
  const auto bounds = offsets.span<std::int32_t>();
  std::int32_t place = 0;
  for (std::size_t modality = 0; modality < own.size(); ++modality) {
    const auto ends = own[modality].span<std::int32_t>();
    const std::int32_t first = place;
    ends[0] = 0;
    for (std::size_t s = 0; s < static_cast<std::size_t>(sequences); ++s) {
      for (std::int32_t row = bounds[2 * s + modality]; row < bounds[2 * s + modality + 1]; ++row, ++place) {
        from.data<std::int32_t>()[place] = row;
        to.data<std::int32_t>()[row] = place;
      }
      ends[s + 1] = place - first;
    }
  }
  const Index image_rows = own[0].span<std::int32_t>().back();
  const Tensor none = tape.empty({0, x.size(1)}, x.dtype());
  const auto [images, texts] =
      functions::split_rows(tape, functions::merge_rows(tape, x, none, tape.on_device(from)), image_rows);
  const auto [seen_by_images, seen_by_texts] =
      (*cross_)(tape, images, tape.on_device(own[0]), texts, tape.on_device(own[1]));
  const Tensor seen = functions::merge_rows(tape, seen_by_images, seen_by_texts, tape.on_device(to));
  return apply_dropout(tape, context, seen, x, dropout_, context.first_token);
}

Tensor Fusion::join(Tape& tape, const Tensor& pooled, const Tensor& offsets) const {
  const Index sequences = pooled.size(0) / 2, width = pooled.size(1);
  if (!cross_) return functions::reshape(pooled, {sequences, 2 * width});
  Arena& arena = tape.arena();
  const Tensor missing = arena.empty_on_host({sequences, 2}, pooled.dtype()),
               same = arena.empty_on_host({sequences}, DType::i32);
  const auto bounds = offsets.span<std::int32_t>();
  for_floating(pooled.dtype(), "fusion", [&]<class T>(T) {
    const auto scores = missing.span<T>();
    for (std::size_t i = 0; i < scores.size(); ++i)
      scores[i] = bounds[i] < bounds[i + 1] ? T(0) : T(kernels::kMaskingScore);
  });
  std::ranges::fill(same.span<std::int32_t>(), 0);
  const Tensor first_row = tape.on_device(same);
  const Tensor scores = functions::concatenate(tape, functions::embedding(tape, first_row, image_->value),
                                               functions::embedding(tape, first_row, text_->value));
  const Tensor weights = functions::softmax(tape, functions::add(tape, scores, tape.on_device(missing)));
  const Tensor weighed =
      functions::scale_channels(tape, functions::reshape(pooled, {2 * sequences, width, 1}),
                                functions::reshape(weights, {2 * sequences, 1}));
  const Tensor means = functions::segment_mean(tape, functions::reshape(weighed, {2 * sequences, width}),
                                               tape.on_device(functions::even_offsets(tape, sequences, 2)));
  return functions::scale(tape, means, 2);
}

std::optional<double> Fusion::image_weight() const {
  if (!cross_) return std::nullopt;
  return 1 / (1 + std::exp(kernels::sum(text_->value) - kernels::sum(image_->value)));
}

double Fusion::flops(const Extent& image, const Extent& text) const {
  return cross_ ? cross_->flops(image, text) : 0;
}

}  // namespace conclave

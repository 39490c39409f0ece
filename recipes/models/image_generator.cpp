#include "recipes/models/image_generator.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/routing.h"

namespace conclave {
namespace {

constexpr Index kTimeFeatures = 64;

// [images, kTimeFeatures]: cosines and sines of the times at frequencies from 1 to 1000.
Tensor time_features(Arena& arena, const Tensor& times) {
  constexpr Index kHalf = kTimeFeatures / 2;
  const Index images = times.size(0);
  const Tensor features = arena.empty_on_host({images, kTimeFeatures}, DType::f32);
  auto* feature = features.data<float>();
  for (Index i = 0; i < images; ++i, feature += kTimeFeatures)
    for (Index k = 0; k < kHalf; ++k) {
      const double frequency = std::pow(1000.0, static_cast<double>(k) / (kHalf - 1));
      const double angle = frequency * static_cast<double>(times.data<float>()[i]);
      feature[k] = static_cast<float>(std::cos(angle));
      feature[kHalf + k] = static_cast<float>(std::sin(angle));
    }
  return features;
}

// Calls body(offset in the image, offset in the patches) for every row of a patch; a row is contiguous in
// both.
template <class Body>
void for_each_patch_row(const Patches& patches, Body&& body) {
  const auto& [image, side] = patches;
  const Index row = side * image.channels;
  Index place = 0;
  for (Index y = 0; y < image.height; y += side)
    for (Index x = 0; x < image.width; x += side)
      for (Index inner = 0; inner < side; ++inner, place += row)
        body(((y + inner) * image.width + x) * image.channels, place);
}

}  // namespace

void Patches::cut(const Tensor& pixels, const Tensor& patches) const {
  const Index images = pixels.size(0), row = side * image.channels;
  kernels::expect("Patches::cut", "patches", patches, {images * count(), size()}, DType::f32);
  for (Index i = 0; i < images; ++i) {
    const auto* from = pixels.data<std::uint8_t>() + i * image.size();
    auto* to = patches.data<float>() + i * image.size();
    for_each_patch_row(*this, [&](Index in_image, Index in_patches) {
      for (Index k = 0; k < row; ++k)
        to[in_patches + k] = static_cast<float>(from[in_image + k]) / 127.5F - 1.0F;
    });
  }
}

void Patches::join(const Tensor& patches, const Tensor& pixels) const {
  const Index images = pixels.size(0), row = side * image.channels;
  kernels::expect("Patches::join", "patches", patches, {images * count(), size()}, DType::f32);
  for (Index i = 0; i < images; ++i) {
    const auto* from = patches.data<float>() + i * image.size();
    auto* to = pixels.data<std::uint8_t>() + i * image.size();
    for_each_patch_row(*this, [&](Index in_image, Index in_patches) {
      for (Index k = 0; k < row; ++k) {
        const float byte = std::round((from[in_patches + k] + 1.0F) * 127.5F);
        to[in_image + k] = static_cast<std::uint8_t>(std::clamp(byte, 0.0F, 255.0F));
      }
    });
  }
}

ImageGenerator::ImageGenerator(const Recipe& recipe, const ModelSizes& sizes, Trunk& trunk)
    : Task(TaskKind::generate),
      trunk_(trunk),
      patches_{sizes.image, recipe.generate.patch},
      text_dropout_(recipe.generate.text_dropout),
      hidden_token_(sizes.unknown_token),
      patch_in_(patches_.size(), recipe.model.hidden),
      time_in_(kTimeFeatures, recipe.model.hidden),
      time_out_(recipe.model.hidden, recipe.model.hidden),
      patch_out_(recipe.model.hidden, patches_.size()),
      positions_(patches_.count(), recipe.model.hidden) {
  require(sizes.image.height % patches_.side == 0 && sizes.image.width % patches_.side == 0,
          "generate.patch = {} does not divide images of {} x {} pixels", patches_.side, sizes.image.height,
          sizes.image.width);
  add_module("patch_in", patch_in_);
  add_module("time_in", time_in_);
  add_module("time_out", time_out_);
  add_module("patch_out", patch_out_);
  add_module("position_embedding", positions_);
}

// The tokens, with all tokens of some texts hidden.
Tensor ImageGenerator::hide_texts(Tape& tape, ForwardContext& context, const ModelInput& input) const {
  const RandomStream stream = context.next_stream();
  if (!context.training || text_dropout_ == 0) return input.tokens;
  const Tensor seen = tape.arena().empty_on_host(input.tokens.shape(), DType::i32);
  std::ranges::copy(input.tokens.span<std::int32_t>(), seen.data<std::int32_t>());
  const auto offsets = input.text_offsets.span<std::int32_t>();
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    if (stream.uniform(static_cast<std::uint64_t>(context.first_sequence) + s) < text_dropout_)
      std::fill(seen.data<std::int32_t>() + offsets[s], seen.data<std::int32_t>() + offsets[s + 1],
                hidden_token_);
  return seen;
}

TaskOutput ImageGenerator::operator()(Tape& tape, ForwardContext& context, const ModelInput& input) {
  const Index images = input.sequences(), count = patches_.count(), size = patches_.size();
  expect_images(input);
  Arena& arena = tape.arena();
  const auto first = static_cast<std::uint64_t>(context.first_sequence);
  ModelInput shown = input;
  shown.tokens = hide_texts(tape, context, input);

  // Times are normal numbers through the logistic function, because there is most to learn in the middle
  // (Esser et al. 2024, arXiv:2403.03206, section 3.1).
  const Tensor times = arena.empty_on_host({images}, DType::f32);
  const RandomStream of_times = context.next_stream();
  for (Index i = 0; i < images; ++i)
    times.data<float>()[i] =
        static_cast<float>(1 / (1 + std::exp(-of_times.normal(first + static_cast<std::uint64_t>(i)))));

  const Tensor noisy = arena.empty_on_host({images * count, size}, DType::f32),
               target = arena.empty_on_host({images * count, size}, DType::f32);
  kernels::normal_noise(context.next_stream(), context.first_sequence * count * size, 1, noisy);
  patches_.cut(input.images, target);
  auto *at = noisy.data<float>(), *to = target.data<float>();
  for (Index i = 0; i < images; ++i) {
    const float t = times.data<float>()[i];
    for (Index k = 0; k < count * size; ++k, ++at, ++to) {
      const float noise = *at;
      *at = (1 - t) * noise + t * *to;
      *to -= noise;
    }
  }

  const Tensor guessed = velocity(tape, context, shown, noisy, times);
  const Tensor errors = functions::squared_error(tape, guessed, tape.on_device(target));
  TaskOutput output;
  output.losses = output.sequence_losses =
      sequence_means(tape, errors, functions::even_offsets(tape, images, count));
  if (context.training)
    output.add(output.losses, 1.0 / static_cast<double>(std::max<Index>(context.global_sequences, 1)));
  return output;
}

Tensor ImageGenerator::velocity(Tape& tape, ForwardContext& context, const ModelInput& input,
                                const Tensor& noisy, const Tensor& times) {
  const Index images = times.size(0), count = patches_.count();
  tape.enter("generate");
  Arena& arena = tape.arena();
  const Tensor places = arena.empty_on_host({images * count}, DType::i32),
               owners = arena.empty_on_host({images * count}, DType::i32),
               rows = arena.empty_on_host({images * count}, DType::i32);
  const auto offsets = input.offsets.span<std::int32_t>();
  for (Index i = 0, row = 0; i < images; ++i)
    for (Index k = 0; k < count; ++k, ++row) {
      places.data<std::int32_t>()[row] = static_cast<std::int32_t>(k);
      owners.data<std::int32_t>()[row] = static_cast<std::int32_t>(i);
      rows.data<std::int32_t>()[row] = offsets[static_cast<std::size_t>(i)] + static_cast<std::int32_t>(k);
    }
  const Tensor texts = trunk_.embed(tape, input.tokens, input.positions);
  tape.enter("generate");
  // Every patch is given the text, as a mean, and the time.
  const Tensor time = time_in_(tape, tape.on_device(time_features(arena, times)), Activation::gelu);
  const Tensor condition = functions::add(
      tape, time_out_(tape, time), functions::segment_mean(tape, texts, tape.on_device(input.text_offsets)));
  Tensor x =
      functions::add(tape, patch_in_(tape, tape.on_device(noisy)), positions_(tape, tape.on_device(places)));
  x = functions::add(tape, x, functions::embedding(tape, tape.on_device(owners), condition));
  trunk_.separate_experts(tape, context, input, x.dtype());
  x = trunk_.transform(tape, context, Trunk::merge(tape, x, texts, count, input), input.offsets);
  tape.enter("generate");
  return patch_out_(tape, functions::embedding(tape, tape.on_device(rows), x));
}

std::vector<Cost> ImageGenerator::costs(Index tokens) const {
  std::vector<Cost> costs = trunk_.costs(tokens, false, {{1, tokens + patches_.count()}});
  const auto add = [&](const char* name, const Module& module, Index rows) {
    Extent extent{1, rows};
    costs.push_back({std::string("generate.") + name, module.parameter_count(), module.flops(extent)});
  };
  add("patch_in", patch_in_, patches_.count());
  add("time_in", time_in_, 1);
  add("time_out", time_out_, 1);
  add("patch_out", patch_out_, patches_.count());
  costs.push_back({"generate.position_embedding", positions_.parameter_count(), 0});
  return costs;
}

}  // namespace conclave

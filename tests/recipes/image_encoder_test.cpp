#include "recipes/models/image_encoder.h"
#include "recipes/settings/image_block.h"

#include <catch2/catch.hpp>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "core/random.h"
#include "tests/autograd/gradient.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

TEST_CASE("words of an image block may have any order, and missing ones have defaults", "[image_encoder]") {
  const ImageBlock plain = image_block("k3 x1 c16");
  CHECK(plain.window == 3);
  CHECK(plain.expansion == 1);
  CHECK(plain.channels == 16);
  CHECK(plain.stride == 1);
  CHECK_FALSE(plain.squeeze_excite);
  CHECK(plain.activation == Activation::relu);
  const ImageBlock full = image_block("  hs se s2 c240  k5 x6 ");
  CHECK(full.window == 5);
  CHECK(full.expansion == 6);
  CHECK(full.channels == 240);
  CHECK(full.stride == 2);
  CHECK(full.squeeze_excite);
  CHECK(full.activation == Activation::hard_swish);
  CHECK(image_block("k3 x1 c16 relu").activation == Activation::relu);
}

TEST_CASE("messages for invalid image blocks name the mistake and a valid block", "[image_encoder]") {
  const std::pair<const char*, const char*> mistakes[] = {
      {"", "image block \"\": it has no window (k...)"},
      {"k3 c16", "it has no expansion (x...)"},
      {"k3 x4", "it has no channels (c...)"},
      {"k3 x4 c24 gelu", "'gelu' is not one of its words"},
      {"k3 x4 c24 s", "'s' is not one of its words"},
      {"k3 x0 c24", "'x0' is not one of its words"},
      {"k3 x4 c-8", "'c-8' is not one of its words"},
      {"k3 x4 c24.5", "'c24.5' is not one of its words"},
      {"k3 x4 c99999999999999999999", "'c99999999999999999999' is not one of its words"},
      {"k3 x4 c24 k5", "'k5' comes after another of its kind"},
      {"k3 x4 c24 hs relu", "'relu' comes after another of its kind"},
      {"k4 x4 c24", "'k4' has no pixel in the middle"},
      {"k3 x4 c24 s3", "'s3' skips pixels"}};
  for (const auto& [text, message] : mistakes) {
    CHECK_THROWS_WITH(image_block(text), Contains(message));
    CHECK_THROWS_WITH(image_block(text), Contains("a block reads like \"k3 x4 c24 s2 se hs\""));
  }
}

Tensor random_images(const Shape& shape) {
  const Tensor images = Tensor::empty(shape, DType::u8);
  const RandomStream stream{.seed = 3};
  for (Index i = 0; i < images.numel(); ++i)
    images.data<std::uint8_t>()[i] =
        static_cast<std::uint8_t>(256 * stream.uniform(static_cast<std::uint64_t>(i)));
  return images;
}

TEST_CASE("strides reduce the grid of an image's features", "[image_encoder]") {
  for (const bool depthwise : {true, false}) {
    ImageEncoder encoder({.depthwise = depthwise}, 1, 48);
    const ParameterSet parameters(encoder, DType::f32, 1);
    Arena arena("test");
    Tape tape(arena, false);
    CHECK(encoder(tape, {}, random_images({2, 28, 28, 1})).shape() == Shape{2, 7, 7, 48});
    CHECK(encoder(tape, {}, random_images({1, 13, 6, 1})).shape() == Shape{1, 4, 2, 48});
    CHECK(encoder(tape, {}, random_images({0, 28, 28, 1})).shape() == Shape{0, 7, 7, 48});
  }
  ImageEncoder strided({.stem_stride = 2}, 3, 16);
  const ParameterSet parameters(strided, DType::f32, 1);
  Arena arena("test");
  Tape tape(arena, false);
  CHECK(strided(tape, {}, random_images({2, 32, 24, 3})).shape() == Shape{2, 4, 3, 16});
  ImageEncoder scattering({.scattering = true, .blocks = {"k3 x8 c16 s2"}}, 3, 16);
  const ParameterSet more(scattering, DType::f32, 1);
  CHECK(scattering(tape, {}, random_images({2, 32, 24, 3})).shape() == Shape{2, 4, 3, 16});
  ImageEncoder flat({.scattering = true, .blocks = {}, .flatten = Extent{28, 27}}, 1, 16);
  const ParameterSet most(flat, DType::f32, 1);
  CHECK(flat(tape, {}, random_images({2, 28, 27, 1})).shape() == Shape{2, 1, 1, 16});
  CHECK(most.elements() == 2 * 81 + 49 * 81 * 16 + 2 * 16);
  Extent extent{28, 27};
  CHECK(flat.flops(extent) > 2 * 49 * 81 * 16);
  CHECK(extent.rows() == 1);
}

TEST_CASE("every parameter of an image encoder has a gradient", "[image_encoder][unsanitized]") {
  for (const char* norm : {"group", "batch"})
    for (const bool depthwise : {true, false}) {
      ImageEncoder encoder({.scattering = !depthwise,
                            .blocks = {depthwise ? "k3 x1 c16" : "k3 x8 c16", "k5 x2 c24 s2 se hs"},
                            .norm = norm,
                            .depthwise = depthwise,
                            .flatten = depthwise ? std::nullopt : std::optional(Extent{9, 8})},
                           3, 32);
      ParameterSet parameters(encoder, DType::f64, 1);
      Arena arena("test");
      Tape tape(arena);
      const Tensor y = encoder(tape, {}, random_images({3, 9, 8, 3}));
      tape.backward(y, random_values(y.shape(), 5));
      for (const Parameter* parameter : parameters.parameters()) {
        CAPTURE(norm, depthwise, parameter->name);
        double squares = 0;
        for (const double value : parameter->slot.gradient.span<double>()) squares += value * value;
        CHECK(squares > 0);
      }
      CHECK((parameters.buffers().size() > 0) == (std::string(norm) == "batch"));
    }
}

TEST_CASE("only batch normalization in training makes images depend on each other", "[image_encoder]") {
  const Tensor images = random_images({3, 9, 8, 3});
  for (const char* norm : {"group", "batch"})
    for (const bool training : {true, false}) {
      CAPTURE(norm, training);
      ImageEncoder encoder({.norm = norm, .mean = {0.4, 0.5, 0.6}, .deviation = {0.2, 0.3, 0.4}}, 3, 32);
      ParameterSet parameters(encoder, DType::f64, 1);
      Arena arena("test");
      Tape tape(arena, false);
      const ForwardContext context{.training = training};
      const Tensor all = encoder(tape, context, images), first = encoder(tape, context, images.rows(0, 1));
      CHECK((distance(all.rows(0, 1), first) < 1e-12) == !(training && std::string(norm) == "batch"));
    }
}

TEST_CASE("the error for an invalid encoder names the block", "[image_encoder]") {
  CHECK_THROWS_WITH(
      ImageEncoder({.blocks = {"k3 x1 c16", "k3 x4 c20"}}, 3, 32),
      "image block \"k3 x4 c20\", of 16 channels that come in: group normalization: groups of 8 "
      "channels do not divide 20 channels");
  CHECK_THROWS_WITH(ImageEncoder({.norm = "layer"}, 3, 32),
                    "no normalization of images is named 'layer'; there are group, batch");
  CHECK_THROWS_WITH(ImageEncoder({}, 3, 30), Contains("do not divide 30 channels"));
}

}  // namespace
}  // namespace conclave

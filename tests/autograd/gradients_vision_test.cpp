// Functions of images against their numerical derivatives.
#include <catch2/catch.hpp>

#include "tests/autograd/gradient.h"

namespace conclave {
namespace {

using kernels::Window;

constexpr Window kWindows[] = {{3, 1, 1}, {3, 2, 1}, {1, 1, 0}, {2, 2, 0}, {5, 2, 2}, {4, 3, 2}};

TEST_CASE("convolution: gradients of images, weight and bias", "[gradient]") {
  for (const Window& window : kWindows) {
    CAPTURE(window.size, window.stride, window.padding);
    const Tensor x = random_values({2, 5, 4, 3}, 1), b = random_values({4}, 3),
                 w = random_values({4, window.size, window.size, 3}, 2);
    CHECK(gradient_error(
              [=](Tape& tape, Inputs v) {
                return functions::convolution(tape, v[0], v[1], v[2], window, Activation::silu);
              },
              {x, w, b}) < kGradientTolerance);
    CHECK(gradient_error([=](Tape& tape,
                             Inputs v) { return functions::convolution(tape, v[0], v[1], Tensor(), window); },
                         {x, w}) < kGradientTolerance);
  }
}

TEST_CASE("convolution: each of images, weight and bias may be the only one with a gradient", "[gradient]") {
  const Window window{3, 1, 1};
  const Tensor x = kept(random_values({2, 3, 4, 2}, 1)), w = kept(random_values({3, 3, 3, 2}, 2)),
               b = kept(random_values({3}, 3));
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::convolution(t, v[0], w, b, window); },
                       {x}) < kGradientTolerance);
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::convolution(t, x, v[0], b, window); },
                       {w}) < kGradientTolerance);
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::convolution(t, x, w, v[0], window); },
                       {b}) < kGradientTolerance);
}

TEST_CASE("depthwise: gradients of images and weight", "[gradient]") {
  for (const Window& window : kWindows)
    for (const Index channels : {1, 4, 9}) {
      CAPTURE(window.size, window.stride, window.padding, channels);
      CHECK(
          gradient_error([=](Tape& tape, Inputs v) { return functions::depthwise(tape, v[0], v[1], window); },
                         {random_values({2, 5, 9, channels}, 1),
                          random_values({window.size, window.size, channels}, 2)}) < kGradientTolerance);
    }
}

TEST_CASE("scale_rows: gradients of rows and factors", "[gradient]") {
  CHECK(gradient_error([](Tape& tape, Inputs v) { return functions::scale_rows(tape, v[0], v[1]); },
                       {random_values({1, 4, 3}, 1), random_values({4}, 2)}) < kGradientTolerance);
}

TEST_CASE("scale_last: gradients of images and factors", "[gradient]") {
  CHECK(gradient_error([](Tape& tape, Inputs v) { return functions::scale_last(tape, v[0], v[1]); },
                       {random_values({2, 4, 3}, 1), random_values({3}, 2)}) < kGradientTolerance);
}

TEST_CASE("group_norm: gradients of images, gamma and beta", "[gradient]") {
  for (const Index groups : {1, 2, 6}) {
    for (const Activation kind : {Activation::none, Activation::silu}) {
      CAPTURE(groups, int(kind));
      CHECK(gradient_error(
                [=](Tape& tape, Inputs v) {
                  return functions::group_norm(tape, v[0], v[1], v[2], groups, 1e-5, kind);
                },
                {random_values({3, 2, 4, 6}, 1), random_values({6}, 2), random_values({6}, 3)}) <
            kGradientTolerance);
    }
  }
}

TEST_CASE("batch_norm: gradients of images, gamma and beta, in training and in inference", "[gradient]") {
  for (const bool training : {true, false}) {
    CAPTURE(training);
    const functions::BatchNormState state{
        .running_mean = kept(random_values({5}, 4)),
        .running_variance = kept(Tensor::of<double>({5}, {1, 2, 0.5, 3, 1.5}))};
    CHECK(gradient_error(
              [=](Tape& tape, Inputs v) {
                return functions::batch_norm(tape, v[0], v[1], v[2], state, training, Activation::gelu);
              },
              {random_values({3, 2, 3, 5}, 1), random_values({5}, 2), random_values({5}, 3)}) <
          kGradientTolerance);
  }
}

TEST_CASE("scale_channels: gradients of images and factors", "[gradient]") {
  CHECK(gradient_error([](Tape& t, Inputs v) { return functions::scale_channels(t, v[0], v[1]); },
                       {random_values({3, 2, 4, 5}, 1), random_values({3, 5}, 2)}) < kGradientTolerance);
  CHECK(gradient_error(
            [](Tape& t, Inputs v) {
              return functions::scale_channels(t, functions::scale_channels(t, v[0], v[1]), v[1]);
            },
            {random_values({2, 3, 5}, 1), random_values({2, 5}, 2)}) < kGradientTolerance);
}

TEST_CASE("merge_rows: gradients of both parts, also where one has another use", "[gradient]") {
  const Tensor slots = kept(Tensor::of<std::int32_t>({5, 1}, {3, 0, 4, 2, 1}));
  const Tensor head = random_values({3, 4}, 1), tail = random_values({2, 4}, 2);
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::merge_rows(t, v[0], v[1], slots); },
                       {head, tail}) < kGradientTolerance);
  CHECK(gradient_error(
            [=](Tape& t, Inputs v) {
              const Tensor merged = functions::merge_rows(t, v[0], v[1], slots);
              return functions::matmul(t, v[0], functions::reshape(merged, {4, 5}));
            },
            {head, tail}) < kGradientTolerance);
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::merge_rows(t, kept(head), v[0], slots); },
                       {tail}) < kGradientTolerance);
}

TEST_CASE("images with two uses accumulate both gradients", "[gradient]") {
  const Window window{3, 1, 1};
  CHECK(gradient_error(
            [=](Tape& t, Inputs v) {
              const Tensor once = functions::depthwise(t, v[0], v[1], window);
              const Tensor twice = functions::convolution(t, v[0], v[2], Tensor(), window);
              return functions::add(t, functions::depthwise(t, once, v[1], window),
                                    functions::convolution(t, twice, v[2], Tensor(), window));
            },
            {random_values({2, 4, 3, 2}, 1), random_values({3, 3, 2}, 2), random_values({2, 3, 3, 2}, 3)}) <
        kGradientTolerance);
}

}  // namespace
}  // namespace conclave

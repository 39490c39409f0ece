// Depthwise convolutions of a MobileNet for images of 28 x 28 pixels, compared with the FMA peak.
#include <fmt/format.h>
#include <omp.h>

#include <functional>

#include "core/arena.h"
#include "core/kernels/depthwise.h"
#include "core/kernels/integer_convolution.h"
#include "recipes/bench/bench.h"

namespace conclave::bench {
namespace {

void depthwise(Index side, Index channels, const kernels::Window& window, std::int64_t repetitions) {
  constexpr Index kImages = 64;
  Arena arena("convolution");
  const Tensor x = arena.empty({kImages, side, side, channels}),
               weight = arena.empty({window.size, window.size, channels});
  const Tensor y = arena.empty(kernels::window_shape("depthwise", x, window, channels)),
               dx = arena.empty(x.shape()), dweight = arena.zeros(weight.shape()),
               scratch = arena.empty({kernels::depthwise_parts(kImages), window.size, window.size, channels});
  fill(x, 0);
  fill(weight, 1);
  const Peak peak(omp_get_max_threads());
  const auto measure = [&](const char* way, double flops, const auto& work) {
    // Repeat the work so that a repetition is long compared with the clock's resolution and with
    // disturbances.
    const int times = static_cast<int>(std::max(1.0, 5e8 / flops));
    const Comparison time = compare(
        [&] {
          for (int i = 0; i < times; ++i) work();
        },
        [&] { peak.run(); }, repetitions);
    print_figure(
        fmt::format("depthwise {} x {}, stride {}, {} images {} x {} x {}, {}", window.size, window.size,
                    window.stride, kImages, side, side, channels, way),
        fmt::format("{:.3f} ms, {:.1f} GFLOP/s, {:.0f}% of the FMA peak", 1e3 * time.subject / times,
                    flops * times / time.subject / 1e9, 100 * time.ratio * flops * times / peak.flops()));
  };
  const double flops = 2 * static_cast<double>(y.numel() * window.size * window.size);
  measure("forward", flops, [&] { kernels::depthwise(x, weight, window, y); });
  measure("backward", 2 * flops, [&] {
    kernels::depthwise_backward_input(y, weight, window, dx, Write::assign);
    kernels::depthwise_backward_weight(y, x, window, dweight, scratch);
  });

  // Integer convolutions: with quantized input, and including the quantization of f32 input.
  const Index pixels = x.numel() / kImages;
  const QuantLevels levels = QuantLevels::affine(7);
  const kernels::IntegerRows rows{
      arena.empty({kImages, kernels::IntegerWeights::row_bytes(pixels)}, DType::u8), arena.empty({kImages}),
      arena.empty({kImages})};
  const Tensor integers = arena.empty(weight.shape()), scale = arena.empty({channels});
  for (Index i = 0; i < integers.numel(); ++i) integers.data<float>()[i] = static_cast<float>(i / 9 % 127);
  scale.fill(0.01);
  const auto quantize = [&] { kernels::quantize_rows(x.reshape({kImages, pixels}), levels, rows); };
  const auto convolve = [&] {
    kernels::integer_depthwise(rows, x.shape(), integers, scale, window, Tensor(), Activation::none, y);
  };
  quantize();
  const auto against = [&](const char* what, const std::function<void()>& work) {
    const Comparison time = compare(
        work, [&] { kernels::depthwise(x, weight, window, y); }, repetitions);
    print_figure(fmt::format("the same {}", what),
                 fmt::format("{:.3f} ms, {:.2f} x f32", 1e3 * time.subject, time.ratio));
  };
  against("of integers", convolve);
  against("of integers, which are made first", [&] {
    quantize();
    convolve();
  });
}

}  // namespace

void convolution(std::int64_t repetitions) {
  depthwise(28, 16, {3, 1, 1}, repetitions);
  depthwise(28, 64, {3, 2, 1}, repetitions);
  depthwise(14, 96, {3, 1, 1}, repetitions);
  depthwise(14, 96, {5, 1, 2}, repetitions);
  depthwise(7, 240, {5, 1, 2}, repetitions);
}

}  // namespace conclave::bench

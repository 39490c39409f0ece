// Compares layer normalization with GELU in one pass with the two operations run separately, as a tape would
// record them.
#include <fmt/format.h>

#include "core/arena.h"
#include "core/kernels/activation.h"
#include "core/kernels/layer_norm.h"
#include "recipes/bench/bench.h"

namespace conclave::bench {
namespace {

void layer_norm_gelu(Index rows, Index hidden, std::int64_t repetitions) {
  Arena arena("layer norm");
  const Tensor x = arena.empty({rows, hidden}), gamma = arena.empty({hidden}), beta = arena.empty({hidden}),
               dy = arena.empty({rows, hidden});
  fill(x, 0);
  fill(gamma, 1);
  fill(beta, 2);
  fill(dy, 3);
  const Tensor y = arena.empty(x.shape()), mean = arena.empty({rows}), rstd = arena.empty({rows}),
               dx = arena.empty(x.shape()), dgamma = arena.zeros({hidden}), dbeta = arena.zeros({hidden}),
               scratch = arena.empty({kernels::layer_norm_parts(rows), 3, hidden}),
               normalized = arena.empty(x.shape()), derivative = arena.empty(x.shape());
  constexpr kernels::LayerNormOptions kFused{.gelu = true}, kAlone{};

  const auto forward_fused = [&] { kernels::layer_norm(x, gamma, beta, kFused, y, mean, rstd); };
  const auto forward_apart = [&] {
    kernels::layer_norm(x, gamma, beta, kAlone, normalized, mean, rstd);
    kernels::activation(normalized, Activation::gelu, y, derivative);
  };
  const auto backward_fused = [&] {
    kernels::layer_norm_backward(dy, x, gamma, beta, kFused, mean, rstd, dx, Write::assign, dgamma, dbeta,
                                 scratch);
  };
  const auto backward_apart = [&] {
    kernels::multiply(dy, derivative, normalized);
    kernels::layer_norm_backward(normalized, x, gamma, beta, kAlone, mean, rstd, dx, Write::assign, dgamma,
                                 dbeta, scratch);
  };
  const auto measure = [&](const char* way, const auto& fused, const auto& apart) {
    const Comparison time = compare(fused, apart, repetitions);
    print_figure(fmt::format("layer norm + GELU, {} x {}, {}", rows, hidden, way),
                 fmt::format("{:.3f} ms fused, {:.3f} ms unfused: {:.0f}% of it", 1e3 * time.subject,
                             1e3 * time.reference, 100 / time.ratio),
                 0.6);
  };
  measure("forward", forward_fused, forward_apart);
  measure("backward", backward_fused, backward_apart);
  measure(
      "both",
      [&] {
        forward_fused();
        backward_fused();
      },
      [&] {
        forward_apart();
        backward_apart();
      });
}

}  // namespace

void layer_norm(std::int64_t repetitions) {
  for (const Index hidden : {256, 1024}) layer_norm_gelu(8192, hidden, repetitions);
}

}  // namespace conclave::bench

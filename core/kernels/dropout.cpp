#include "core/kernels/dropout.h"

#include <algorithm>
#include <array>
#include <bit>

#include "core/kernels/chunks.h"
#include "core/kernels/dropout_rate.h"

namespace conclave::kernels {
namespace {

constexpr Index kBlocks = 16;  // drawn at once, of 8 elements each

// Whether each element of kBlocks blocks is kept. Eight elements share one 128-bit draw.
std::array<std::uint8_t, 8 * kBlocks> draw(const RandomStream& stream, std::uint32_t threshold, Index block) {
  const auto words = stream.blocks<kBlocks>(static_cast<std::uint64_t>(block));
  // Packs the bytes of four elements into one little-endian number, so that all blocks are computed in
  // vectors.
  std::array<std::uint32_t, 2 * kBlocks> packed;
  for (std::size_t half = 0; half < 2; ++half)
#pragma GCC ivdep
    for (std::size_t b = 0; b < kBlocks; ++b) {
      const std::uint32_t one = words[2 * half][b], other = words[2 * half + 1][b];
      packed[2 * b + half] =
          std::uint32_t{(one & 0xffffu) >= threshold} | std::uint32_t{one >> 16 >= threshold} << 8 |
          std::uint32_t{(other & 0xffffu) >= threshold} << 16 | std::uint32_t{other >> 16 >= threshold} << 24;
    }
  static_assert(std::endian::native == std::endian::little);
  return std::bit_cast<std::array<std::uint8_t, 8 * kBlocks>>(packed);
}

// mask[i] = whether element first + i is kept, for i in [0, count). Blocks are aligned to the global index,
// not to this rank's part.
void draw_mask(const RandomStream& stream, std::uint32_t threshold, Index first, Index count,
               std::uint8_t* mask) {
  for (Index i = 0; i < count;) {
    const Index skip = (first + i) % 8, taken = std::min(8 * kBlocks - skip, count - i);
    const auto keep = draw(stream, threshold, (first + i) / 8);
    std::copy_n(keep.begin() + skip, taken, mask + i);
    i += taken;
  }
}

}  // namespace

void dropout(const Tensor& x, const Tensor& residual, double rate, const RandomStream& stream, Index first,
             const Tensor& y, const Tensor& mask) {
  const std::uint32_t threshold = dropout_threshold(rate);
  expect("dropout", "x", x, x.shape(), x.dtype());
  expect("dropout", "y", y, x.shape(), x.dtype());
  expect("dropout", "mask", mask, x.shape(), DType::u8);
  if (residual.defined()) expect("dropout", "residual", residual, x.shape(), x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("dropout", x, residual, y, mask))
      return cuda::dropout(x, residual, rate, stream, first, y, mask);
  std::uint8_t* kept = mask.data<std::uint8_t>();
  for_floating(x.dtype(), "dropout", [&]<class T>(T) {
    const T scale = dropout_scale<T>(rate);
    const T *px = x.data<T>(), *pr = residual.defined() ? residual.data<T>() : nullptr;
    T* py = y.data<T>();
    for_chunks(x.numel(), [&](Index begin, Index end) {
      draw_mask(stream, threshold, first + begin, end - begin, kept + begin);
      if (pr) {
#pragma omp simd
        for (Index i = begin; i < end; ++i) py[i] = px[i] * (scale * static_cast<T>(kept[i])) + pr[i];
      } else {
#pragma omp simd
        for (Index i = begin; i < end; ++i) py[i] = px[i] * (scale * static_cast<T>(kept[i]));
      }
    });
  });
}

void dropout_backward(const Tensor& dy, const Tensor& mask, double rate, const Tensor& dx, Write write) {
  expect("dropout backward", "dy", dy, dy.shape(), dy.dtype());
  expect("dropout backward", "dx", dx, dy.shape(), dy.dtype());
  expect("dropout backward", "mask", mask, dy.shape(), DType::u8);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("dropout backward", dy, mask, dx)) return cuda::dropout_backward(dy, mask, rate, dx, write);
  const std::uint8_t* kept = mask.data<std::uint8_t>();
  for_floating(dy.dtype(), "dropout backward", [&]<class T>(T) {
    const T scale = dropout_scale<T>(rate);
    const T* up = dy.data<T>();
    T* out = dx.data<T>();
    for_chunks(dy.numel(), [&](Index begin, Index end) {
      if (write == Write::assign) {
#pragma omp simd
        for (Index i = begin; i < end; ++i) out[i] = up[i] * (scale * static_cast<T>(kept[i]));
      } else {
#pragma omp simd
        for (Index i = begin; i < end; ++i) out[i] += up[i] * (scale * static_cast<T>(kept[i]));
      }
    });
  });
}

}  // namespace conclave::kernels

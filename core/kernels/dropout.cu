#include "core/kernels/cuda_kernel.h"
#include "core/kernels/dropout.h"
#include "core/kernels/dropout_rate.h"

namespace conclave::kernels::cuda {
namespace {

constexpr int kDrawn = 8;  // elements that share one 128-bit draw

// The elements of one draw; some may lie before or after this tensor's part of the global tensor.
template <class T, bool kAligned>
struct Dropout {
  const T *x, *residual;
  RandomStream stream;
  std::uint32_t threshold;
  T scale;
  Index first, total;
  T* y;
  std::uint8_t* mask;

  template <int>
  __device__ void at(Index item) const {
    const Index draw = first / kDrawn + item, begin = draw * kDrawn - first;
    const auto words = stream.blocks<1>(static_cast<std::uint64_t>(draw));
    std::uint8_t kept[kDrawn];
    for (int w = 0; w < 4; ++w) {
      kept[2 * w] = (words[w][0] & 0xffffu) >= threshold;
      kept[2 * w + 1] = words[w][0] >> 16 >= threshold;
    }
    if (kAligned && begin + kDrawn <= total) {
      constexpr int kPack = kPackWidth<T>;
      for (int i = 0; i < kDrawn; i += kPack) {
        Pack<T, kPack> value = load<kPack>(x + begin + i), added{};
        if (residual) added = load<kPack>(residual + begin + i);
        for (int j = 0; j < kPack; ++j)
          value.at[j] = value.at[j] * (scale * static_cast<T>(kept[i + j])) + added.at[j];
        store<kPack>(y + begin + i, value);
      }
      Pack<std::uint8_t, kDrawn> bytes;
      for (int i = 0; i < kDrawn; ++i) bytes.at[i] = kept[i];
      store<kDrawn>(mask + begin, bytes);
      return;
    }
    for (int i = 0; i < kDrawn; ++i) {
      const Index at = begin + i;
      if (at < 0 || at >= total) continue;
      mask[at] = kept[i];
      y[at] = x[at] * (scale * static_cast<T>(kept[i])) + (residual ? residual[at] : T(0));
    }
  }
};

template <class T>
struct DropoutBackward {
  const T* dy;
  const std::uint8_t* mask;
  T scale;
  T* dx;
  Write mode;
  template <int kWidth>
  __device__ void at(Index i) const {
    Pack<T, kWidth> value = load<kWidth>(dy + i);
    const Pack<std::uint8_t, kWidth> kept = load<kWidth>(mask + i);
    for (int j = 0; j < kWidth; ++j) value.at[j] *= scale * static_cast<T>(kept.at[j]);
    write_pack<kWidth>(dx + i, value, mode);
  }
};

}  // namespace

void dropout(const Tensor& x, const Tensor& residual, double rate, const RandomStream& stream, Index first,
             const Tensor& y, const Tensor& mask) {
  const Index total = x.numel();
  if (total == 0) return;
  const Index draws = (first + total + kDrawn - 1) / kDrawn - first / kDrawn;
  for_floating(x.dtype(), "dropout", [&]<class T>(T) {
    const T* added = residual.defined() ? residual.data<T>() : nullptr;
    const auto run = [&]<bool kAligned>() {
      for_items(
          "dropout", draws,
          Dropout<T, kAligned>{x.data<T>(), added, stream, dropout_threshold(rate), dropout_scale<T>(rate),
                               first, total, y.data<T>(), mask.data<std::uint8_t>()});
    };
    if (first % kDrawn == 0 && aligned({x.raw(), added, y.raw(), mask.raw()}))
      run.template operator()<true>();
    else
      run.template operator()<false>();
  });
}

void dropout_backward(const Tensor& dy, const Tensor& mask, double rate, const Tensor& dx, Write write) {
  for_floating(dy.dtype(), "dropout backward", [&]<class T>(T) {
    const DropoutBackward<T> body{dy.data<T>(), mask.data<std::uint8_t>(), dropout_scale<T>(rate),
                                  dx.data<T>(), write};
    for_flat<T>("dropout backward", dy.numel(), {body.dy, body.mask, body.dx}, body);
  });
}

}  // namespace conclave::kernels::cuda

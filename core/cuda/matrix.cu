#include "core/cuda/matrix.h"

#include <cuda_bf16.h>

#include "core/kernels/cuda_kernel.h"
#include "core/kernels/cuda_tile.h"

namespace conclave::cuda {
namespace {

using kernels::cuda::Pack;

constexpr int kHalves = kernels::cuda::kPackWidth<BFloat16>;

// An item is a pack of bf16; its f32 values (T) are loaded in as many packs as they fill.
template <class T>
struct RoundToBFloat16 {
  static constexpr int kPack = kernels::cuda::kPackWidth<T>;

  Matrix<T> matrix;
  Index packs;  // per row of the result
  bool packed;  // as for load_columns
  BFloat16* to;

  template <int>
  __device__ void at(Index item) const {
    const Index row = item / packs, column = item % packs * kHalves;
    Pack<BFloat16, kHalves> rounded;
    for (int first = 0; first < kHalves; first += kPack) {
      const Pack<T, kPack> values = kernels::cuda::load_columns(matrix.data + row * matrix.stride,
                                                                column + first, matrix.columns, packed);
      for (int j = 0; j < kPack; ++j)
        rounded.at[first + j].bits = __bfloat16_as_ushort(__float2bfloat16_rn(values.at[j]));
    }
    kernels::cuda::store<kHalves>(to + item * kHalves, rounded);
  }
};

}  // namespace

Matrix<BFloat16> round_to_bf16(const char* operation, const Matrix<float>& matrix, BFloat16* to) {
  constexpr int kPack = RoundToBFloat16<float>::kPack;
  const Index stride = bf16_stride(matrix.columns), packs = stride / kHalves;
  const bool packed =
      matrix.columns % kPack == 0 && matrix.stride % kPack == 0 && kernels::cuda::aligned({matrix.data});
  kernels::cuda::for_items(operation, matrix.rows * packs, RoundToBFloat16<float>{matrix, packs, packed, to});
  return {to, matrix.rows, matrix.columns, stride};
}

}  // namespace conclave::cuda

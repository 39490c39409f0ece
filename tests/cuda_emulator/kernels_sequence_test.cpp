#include "core/kernels/attention.h"
#include "core/kernels/lstm.h"
#include "tests/cuda_emulator/twins.h"

namespace conclave {
namespace {

// conclave::cuda is not to be named here, where kernels::cuda is as near.
using conclave::cuda::empty_on_device, conclave::cuda::to_device;
using namespace kernels;
using Tensors = std::vector<Tensor>;

// Sequences of `lengths`, packed: [sequences + 1] i32.
Tensor offsets_of(const std::vector<Index>& lengths) {
  std::vector<std::int32_t> bounds{0};
  for (const Index length : lengths) bounds.push_back(bounds.back() + static_cast<std::int32_t>(length));
  return Tensor::of<std::int32_t>({static_cast<Index>(bounds.size())}, bounds);
}

TEMPLATE_TEST_CASE("attention on the device does what it does on the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  struct Case {
    std::vector<Index> lengths;
    Index heads, head_size;
  };
  const Case cases[] = {{{}, 1, 8},
                        {{0, 0}, 2, 4},
                        {{1}, 1, 1},
                        {{0, 3, 0, 17, 1, 0}, 4, 3},
                        {{131, 1, 1, 33}, 1, 8},
                        {{70, 0, 5}, 1, 32},
                        {{33}, 2, 64},
                        {{0, 40}, 1, 80},
                        {{33, 2}, 1, 250},
                        {{18}, 1, 256}};
  for (const auto& [lengths, heads, head_size] : cases) {
    const Tensor offsets = offsets_of(lengths);
    const Index tokens = offsets.span<std::int32_t>().back(), hidden = heads * head_size;
    CAPTURE(tokens, heads, head_size);
    for (const AttentionMask mask : {AttentionMask::none, AttentionMask::causal}) {
      const AttentionOptions options{heads, mask};
      compare_twins<T>({random_values({tokens, 3 * hidden}, 1, kType), offsets,
                        unwritten({tokens, hidden}, kType), unwritten({tokens, heads}, kType),
                        random_values({tokens, hidden}, 2, kType), unwritten({tokens, 3 * hidden}, kType)},
                       [&](const Tensors& t) {
                         attention(t[0], t[1], options, t[2], t[3]);
                         attention_backward(t[4], t[0], t[1], options, t[2], t[3], t[5]);
                       });
    }
  }
}

TEMPLATE_TEST_CASE("attention on the device, of sequences of random lengths", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(1);
  for (int round = 0; round < 4; ++round) {
    const Index tokens = shapes.between(1, 150), heads = shapes.between(1, 3),
                head_size = shapes.between(1, 20), hidden = heads * head_size;
    const AttentionOptions options{heads, round % 2 ? AttentionMask::causal : AttentionMask::none};
    compare_twins<T>(
        {random_values({tokens, 3 * hidden}, 1, kType), shapes.offsets(shapes.between(1, 9), tokens),
         unwritten({tokens, hidden}, kType), unwritten({tokens, heads}, kType),
         random_values({tokens, hidden}, 2, kType), unwritten({tokens, 3 * hidden}, kType)},
        [&](const Tensors& t) {
          attention(t[0], t[1], options, t[2], t[3]);
          attention_backward(t[4], t[0], t[1], options, t[2], t[3], t[5]);
        });
  }
}

TEST_CASE("attention on the device refuses heads that are too large for it") {
  const Tensor qkv = empty_on_device({4, 3 * 257}), out = empty_on_device({4, 257}),
               lse = empty_on_device({4, 1}), offsets = to_device(offsets_of({4}));
  CHECK_THROWS_WITH(attention(qkv, offsets, {}, out, lse),
                    "attention: heads of 257 elements, at most 256 on a CUDA device");
}

}  // namespace
}  // namespace conclave

#include "core/kernels/attention.h"
#include "core/kernels/lstm_cell.h"
#include "tests/cuda_emulator/twins.h"

namespace conclave {
namespace {

// Using-declarations, because `cuda` alone could mean conclave::cuda or kernels::cuda here.
using conclave::cuda::empty_on_device, conclave::cuda::to_device;
using namespace kernels;
using Tensors = std::vector<Tensor>;

Tensor empty_like(const Tensor& tensor, const Shape& shape) {
  return tensor.device() == Device::cuda ? empty_on_device(shape, tensor.dtype())
                                         : Tensor::empty(shape, tensor.dtype());
}

// Sequences of `lengths`, packed: [sequences + 1] i32.
Tensor offsets_of(const std::vector<Index>& lengths) {
  std::vector<std::int32_t> bounds{0};
  for (const Index length : lengths) bounds.push_back(bounds.back() + static_cast<std::int32_t>(length));
  return Tensor::of<std::int32_t>({static_cast<Index>(bounds.size())}, bounds);
}

TEMPLATE_TEST_CASE("attention on the device agrees with the processor", "", float, double) {
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

TEMPLATE_TEST_CASE("attention on the device with random lengths of sequences", "", float, double) {
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

// Queries are columns of a wider tensor, keys and values are columns of a common one, and so are their
// gradients.
template <class T>
void compare_attention(const Tensor& offsets, const Tensor& key_offsets, Index head_size,
                       AttentionOptions options) {
  constexpr DType kType = dtype_of<T>;
  const Index rows = offsets.span<std::int32_t>().back(), key_rows = key_offsets.span<std::int32_t>().back(),
              hidden = options.heads * head_size;
  CAPTURE(rows, key_rows, options.heads, head_size, int(options.mask));
  const Shape wide{rows, hidden + 4}, pairs{key_rows, 2 * hidden};
  compare_twins<T>(
      {random_values(wide, 1, kType), random_values(pairs, 2, kType), offsets, key_offsets,
       unwritten({rows, hidden}, kType), unwritten({rows, options.heads}, kType),
       random_values({rows, hidden}, 3, kType), random_values(wide, 4, kType), unwritten(pairs, kType)},
      [&](const Tensors& t) {
        const auto q = [&](int i) { return t[i].slice(1, 4, 4 + hidden); };
        const auto k = [&](int i) { return t[i].slice(1, 0, hidden); };
        const auto v = [&](int i) { return t[i].slice(1, hidden, 2 * hidden); };
        attention(q(0), k(1), v(1), t[2], t[3], options, t[4], t[5]);
        attention_backward(t[6], q(0), k(1), v(1), t[2], t[3], options, t[4], t[5], q(7), k(8), v(8));
      });
}

TEMPLATE_TEST_CASE("attention on the device to keys of other sequences", "", float, double) {
  struct Case {
    std::vector<Index> queries, keys;
    Index heads, head_size;
  };
  const Case cases[] = {{{2, 0}, {0, 0}, 1, 4},  // no keys at all
                        {{0}, {3}, 2, 4},        // no queries at all
                        {{3, 2, 0, 1}, {4, 0, 5, 1}, 2, 3},
                        {{1, 1}, {70, 1}, 1, 32},     // one token after many
                        {{33, 18}, {90, 71}, 1, 12},  // tiles of queries and of keys start at different rows
                        {{80, 20}, {30, 1}, 1, 72}};  // causal: most queries see no key
  for (const auto& [queries, keys, heads, head_size] : cases)
    for (const AttentionMask mask : {AttentionMask::none, AttentionMask::causal})
      compare_attention<TestType>(offsets_of(queries), offsets_of(keys), head_size, {heads, mask});
  Shapes shapes(2);
  for (int round = 0; round < 4; ++round) {
    const Index sequences = shapes.between(1, 7);
    const Tensor offsets = shapes.offsets(sequences, shapes.between(1, 100)),
                 key_offsets = shapes.offsets(sequences, shapes.between(1, 100));
    compare_attention<TestType>(
        offsets, key_offsets, shapes.between(1, 20),
        {shapes.between(1, 3), round % 2 ? AttentionMask::causal : AttentionMask::none});
  }
}

TEST_CASE("attention on the device refuses too large heads") {
  const Tensor qkv = empty_on_device({4, 3 * 257}), out = empty_on_device({4, 257}),
               lse = empty_on_device({4, 1}), offsets = to_device(offsets_of({4}));
  CHECK_THROWS_WITH(attention(qkv, offsets, {}, out, lse),
                    "attention: heads of 257 elements, at most 256 on a CUDA device");
}

TEMPLATE_TEST_CASE("attention on a device with 99 KiB of shared memory", "", float, double) {
  emulator::set_shared_memory(std::size_t{99} << 10);
  for (const Index head_size : {72, 200}) {
    if (head_size > 128 && dtype_of<TestType> == DType::f64) continue;  // refused below
    for (const AttentionMask mask : {AttentionMask::none, AttentionMask::causal})
      compare_attention<TestType>(offsets_of({33, 0, 18}), offsets_of({20, 2, 35}), head_size, {1, mask});
  }
  emulator::set_shared_memory(std::size_t{227} << 10);
}

TEST_CASE("attention on the device says which heads have too little shared memory") {
  emulator::set_shared_memory(std::size_t{99} << 10);
  const Tensor qkv = empty_on_device({4, 3 * 200}, DType::f64), out = empty_on_device({4, 200}, DType::f64),
               lse = empty_on_device({4, 1}, DType::f64), offsets = to_device(offsets_of({4}));
  CHECK_THROWS_WITH(
      attention(qkv, offsets, {}, out, lse),
      "attention: heads of 200 elements of f64 need more than the 99.0 KiB of shared memory that "
      "this device gives a block; raise model.heads, which makes heads smaller");
  emulator::set_shared_memory(std::size_t{227} << 10);
}

TEMPLATE_TEST_CASE("lstm on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  struct Case {
    std::vector<Index> groups, sequences;
    Index hidden;
  };
  std::vector<Case> cases{{{0}, {0, 0, 0}, 3},                                // no groups, empty sequences
                          {{0, 0}, {0}, 3},                                   // nothing at all
                          {{0, 1}, {0, 1}, 1},                                // a sequence of one
                          {{0, 0, 5, 5, 9, 9}, {0, 0, 2, 5, 5, 5, 9, 9}, 5},  // empty groups and sequences
                          {{0, 3, 21}, {0, 1, 3, 10, 10, 21}, 16},
                          {{0, 8}, {0, 3, 4, 8}, 72},
                          {{0, 6, 13}, {0, 4, 6, 11, 13}, 33}};
  Case many{{}, {0}, 5};  // more than a tile of sequences, in one of two groups
  for (const Index length : {2, 0, 1, 3, 1})
    for (int i = 0; i < 9; ++i) many.sequences.push_back(many.sequences.back() + length);
  many.groups = {0, many.sequences[2], many.sequences.back()};
  cases.push_back(many);
  Case more{{0, 270}, {0}, 1};  // more sequences than the arguments of one launch hold
  for (Index row = 1; row <= 270; ++row) more.sequences.push_back(row);
  cases.push_back(more);
  for (const auto& [groups, sequences, hidden] : cases) {
    const Index rows = sequences.back(), count = static_cast<Index>(sequences.size()) - 1,
                experts = static_cast<Index>(groups.size()) - 1;
    CAPTURE(rows, count, experts, hidden);
    const Shape outputs{rows, hidden}, inputs{rows, 4 * hidden}, weights{experts, 4 * hidden, hidden};
    const Tensor projected = random_values(inputs, 1, kType),
                 recurrent = random_values(weights, 2, kType, 0.1),
                 order = Tensor::zeros({count}, DType::i32), y = unwritten(outputs, kType);
    compare_twins<T>(
        {projected, recurrent, y, y, unwritten(inputs, kType), order, random_values(outputs, 3, kType),
         unwritten(inputs, kType), random_values(weights, 4, kType)},
        [&](const Tensors& t) {
          lstm(t[0], groups, sequences, t[1], t[2], t[3], t[4], t[5],
               empty_like(t[0], lstm_scratch(recurrent, count)));
          lstm_backward(t[6], groups, sequences, t[1], t[2], t[3], t[4], t[5], t[7], t[8],
                        empty_like(t[0], lstm_backward_scratch(recurrent, count, rows)));
        });
    // Without the gates and without the weight's gradient.
    compare_twins<T>({projected, recurrent, y, y, order}, [&](const Tensors& t) {
      lstm(t[0], groups, sequences, t[1], t[2], t[3], {}, t[4],
           empty_like(t[0], lstm_scratch(recurrent, count)));
    });
    // Small values, like real gates: with larger ones, each backward step multiplies the rounding error
    // before it.
    const Tensor cells = random_values(outputs, 5, kType, 0.3), gates = random_values(inputs, 6, kType, 0.3);
    order_sequences(groups, sequences, order.span<std::int32_t>());
    compare_twins<T>({random_values(outputs, 7, kType), recurrent, cells, gates, order,
                      unwritten(inputs, kType), random_values(outputs, 3, kType)},
                     [&](const Tensors& t) {
                       lstm_backward(t[6], groups, sequences, t[1], t[0], t[2], t[3], t[4], t[5], {},
                                     empty_like(t[0], lstm_backward_scratch(recurrent, count, rows)));
                     });
  }
}

}  // namespace
}  // namespace conclave

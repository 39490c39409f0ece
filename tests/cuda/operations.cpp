#include "tests/cuda/operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <span>
#include <utility>

#include "core/cuda/blas.h"
#include "core/cuda/matrix.h"
#include "core/cuda/memory.h"
#include "core/kernels/activation.h"
#include "core/kernels/adamw.h"
#include "core/kernels/attention.h"
#include "core/kernels/channels.h"
#include "core/kernels/convolution.h"
#include "core/kernels/depthwise.h"
#include "core/kernels/dropout.h"
#include "core/kernels/embedding.h"
#include "core/kernels/fake_quantize.h"
#include "core/kernels/gate.h"
#include "core/kernels/hinge.h"
#include "core/kernels/image_norm.h"
#include "core/kernels/integer_convolution.h"
#include "core/kernels/layer_norm.h"
#include "core/kernels/lstm.h"
#include "core/kernels/matmul.h"
#include "core/kernels/permutation.h"
#include "core/kernels/reduction.h"
#include "core/kernels/routing.h"
#include "core/kernels/softmax.h"
#include "core/kernels/squared_error.h"

namespace conclave::roofline {
namespace {

using namespace kernels;
using Tensors = std::vector<Tensor>;

void spread(const Tensor& values) {
  std::uint32_t i = 0;
  for (float& value : values.span<float>())
    value = static_cast<float>(static_cast<std::int32_t>(i++ * 2654435761u)) * 0x1p-31f;
}

Operand read(const Shape& shape, DType dtype = DType::f32) { return {Use::read, shape, dtype}; }
Operand written(const Shape& shape, DType dtype = DType::f32) { return {Use::written, shape, dtype}; }
Operand updated(const Shape& shape) { return {Use::updated, shape}; }

/// i32 that pass through [0, bound) in leaps; the counts of any two values differ by one at most.
Operand numbers(const Shape& shape, Index bound) {
  return {Use::read, shape, DType::i32, [bound](const Tensor& values) {
            constexpr Index kLeap = 7919;  // a prime that divides none of the sizes below
            Index i = 0;
            for (std::int32_t& value : values.span<std::int32_t>())
              value = static_cast<std::int32_t>(i++ * kLeap % bound);
          }};
}

/// [segments + 1] i32: segments of equal lengths.
Operand equal_segments(Index segments, Index each) {
  return {Use::read, {segments + 1}, DType::i32, [each](const Tensor& values) {
            Index begin = 0;
            for (std::int32_t& value : values.span<std::int32_t>())
              value = static_cast<std::int32_t>(std::exchange(begin, begin + each));
          }};
}

/// [segments + 1] offsets of equal segments, for operations that take offsets on the host.
std::vector<Index> equal_offsets(Index segments, Index each) {
  std::vector<Index> offsets;
  for (Index segment = 0; segment <= segments; ++segment) offsets.push_back(segment * each);
  return offsets;
}

/// [tokens, k] i32: k experts for each token, so far apart that no two of their scores share a sector.
Operand choices(Index tokens, Index k, Index experts) {
  return {Use::read, {tokens, k}, DType::i32, [k, experts](const Tensor& values) {
            Index i = 0;
            for (std::int32_t& value : values.span<std::int32_t>()) {
              const Index token = i / k, choice = i++ % k;
              value = static_cast<std::int32_t>((token * 5 + choice * (experts / k)) % experts);
            }
          }};
}

// Traffic of a radix sort (cuda_sort.cu) of `count` keys below `bound`.
Bytes sort_bytes(Index count, Index bound) {
  constexpr double kBytes = 4, kDigits = 256, kMostStretches = 128;
  const auto keys = static_cast<double>(count);
  const double passes = std::ceil(std::bit_width(static_cast<std::uint64_t>(bound)) / 8.0);
  const double counts = kDigits * std::min(kMostStretches, std::ceil(keys / kDigits));
  // Each pass reads the keys twice, to count and to place them; all passes but the first also read the items.
  // The counts are written, summed in place and read. Finally the result is read.
  return {.read = kBytes * (passes * (2 * keys + 2 * counts) + (passes - 1) * keys + 2 * keys),
          .written = kBytes * passes * (2 * keys + 2 * counts)};
}
constexpr const char* kSort = "the sort by id that fixes the order of sums";

}  // namespace

Bytes Operation::least() const {
  Bytes bytes;
  for (const Operand& operand : operands) {
    const double size = operand.part * static_cast<double>(operand.shape.numel()) *
                        static_cast<double>(size_of(operand.dtype));
    if (operand.use == Use::read || operand.use == Use::updated) bytes.read += size;
    if (operand.use == Use::written || operand.use == Use::updated) bytes.written += size;
  }
  return bytes;
}

std::vector<Tensor> Operation::tensors() const {
  std::vector<Tensor> result;
  for (const Operand& operand : operands) {
    const Tensor host = Tensor::zeros(operand.shape, operand.dtype);
    if (operand.fill)
      operand.fill(host);
    else if (operand.dtype == DType::f32)
      spread(host);
    result.push_back(conclave::cuda::to_device(host));
  }
  return result;
}

double floor_of(const Operation& operation, const Rates& rates) {
  const double flops = operation.arithmetic == Arithmetic::f32             ? rates.f32
                       : operation.arithmetic == Arithmetic::bf16_products ? rates.bf16_products
                                                                           : 2 * rates.bf16_products;
  return std::max(operation.least().total() / rates.bytes, operation.flops / flops);
}

namespace {

// Groups of rows. row(name, sizes, operands, FLOPs, run, more = {}, reason = "") adds one operation.

template <class Row>
void attention_rows(bool small, const Row& row) {
  const Index sequences = small ? 2 : 8, length = small ? 96 : 2048, heads = small ? 2 : 32,
              head_size = small ? 32 : 128;
  const Index tokens = sequences * length, hidden = heads * head_size;
  const std::string sizes =
      fmt::format("{} sequences of {}, {} heads of {}", sequences, length, heads, head_size);
  const Shape inputs{tokens, 3 * hidden}, outputs{tokens, hidden}, sums{tokens, heads};
  const Operand offsets = equal_segments(sequences, length);
  const auto m = static_cast<double>(sums.numel()), size = static_cast<double>(head_size);
  for (const AttentionMask mask : {AttentionMask::none, AttentionMask::causal}) {
    const bool causal = mask == AttentionMask::causal;
    const AttentionOptions options{heads, mask};
    const double scores = m * static_cast<double>(causal ? length + 1 : 2 * length) / 2;
    row(causal ? "attention (causal)" : "attention", sizes,
        {read(inputs), offsets, written(outputs), written(sums)}, (4 * size + 25) * scores,
        [=](const Tensors& t) { attention(t[0], t[1], options, t[2], t[3]); });
    row(causal ? "attention (causal) backward" : "attention backward", sizes,
        {read(outputs), read(inputs), offsets, read(outputs), read(sums), written(inputs)},
        (10 * size + 25) * scores,
        [=](const Tensors& t) { attention_backward(t[0], t[1], t[2], options, t[3], t[4], t[5]); });
  }
}

template <class Row>
void lstm_rows(bool small, const Row& row) {
  const Index count = small ? 32 : 1024, steps = small ? 8 : 64, groups = small ? 2 : 8,
              hidden = small ? 64 : 256, rows = count * steps;
  const std::string sizes =
      fmt::format("{} sequences of {}, groups {}, hidden {}", count, steps, groups, hidden);
  const Shape states{rows, hidden}, gates{rows, 4 * hidden}, weight{groups, 4 * hidden, hidden};
  const Tensor recurrent = Tensor::empty(weight);
  const Operand scratch{Use::scratch, lstm_scratch(recurrent, count)},
      backward_scratch{Use::scratch, lstm_backward_scratch(recurrent, count, rows)};
  const std::vector<Index> of_groups = equal_offsets(groups, rows / groups),
                           sequences = equal_offsets(count, steps);
  // n: elements of the states; carried: elements of h, c or their gradients that pass from one step to the
  // next.
  const auto n = static_cast<double>(states.numel()), carried = static_cast<double>((rows - count) * hidden);
  const double product = 8 * carried * static_cast<double>(hidden);
  // All steps but one read the weights, the first of them as an operand; all steps read the sequences'
  // places.
  const auto anew = static_cast<double>((steps - 2) * weight.numel() * 4 + steps * count * 16);
  const auto places = static_cast<double>(count * 16);
  row(
      "lstm", sizes,
      {read(gates), read(weight), written(states), written(states), written(gates),
       written({count}, DType::i32), scratch},
      product + 110 * n,
      [=](const Tensors& t) { lstm(t[0], of_groups, sequences, t[1], t[2], t[3], t[4], t[5], t[6]); },
      Bytes{.read = anew + 4 * 2 * carried, .written = places},
      "each step is a launch, which finds the weights, h and c in the second cache");
  // One byte per row marks the start of a sequence; with many steps, each byte has a sector of its own.
  const auto starts = static_cast<double>(rows * std::min<Index>(steps, 32));
  row(
      "lstm backward", sizes,
      {read(states), read(weight), read(states), read(states), read(gates),
       Operand{Use::scratch, {count}, DType::i32}, written(gates), updated(weight), backward_scratch},
      2 * product + 45 * n,
      [=](const Tensors& t) {
        lstm_backward(t[0], of_groups, sequences, t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8]);
      },
      // Gradients of gates and c from the following step, c of the preceding step, and the gates' gradients
      // again, for the sums.
      Bytes{.read = anew + 4 * (4 + 1 + 1 + 4) * carried, .written = places + 4 * n + starts},
      "each step is a launch, which finds the weights and what the step after left in the second cache; the "
      "weights' gradients are a second pass");
}

template <class Row>
void product_rows(bool small, const Row& row) {
  const Index rows = small ? 192 : 16384, in = small ? 96 : 4096, out = small ? 128 : 4096;
  const Shape inputs{rows, in}, outputs{rows, out};
  const auto n = static_cast<double>(outputs.numel());
  const double product = 2 * n * static_cast<double>(in);
  const std::string sizes = fmt::format("rows {}, in {}, out {}", rows, in, out);
  row("matmul", sizes, {read(inputs), read({in, out}), written(outputs)}, product,
      [](const Tensors& t) { matmul(t[0], Transpose::no, t[1], Transpose::no, t[2]); });

  // The experts of a mixture; cuBLASLt multiplies once for each.
  const Index groups = small ? 2 : 8;
  const Shape weights{groups, out, in}, biases{groups, out};
  const std::vector<Index> offsets = equal_offsets(groups, rows / groups);
  const std::string grouped = fmt::format("{}, groups {}", sizes, groups);
  row(
      "linear (relu)", grouped, {read(inputs), read(weights), read(biases), written(outputs)},
      product + 2 * n,
      [=](const Tensors& t) { grouped_linear(t[0], offsets, t[1], t[2], Activation::relu, t[3], {}); },
      Bytes{.read = 4 * n, .written = 4 * n}, "cuBLASLt's ReLU turns NaN into 0: a second pass over y");
  row(
      "linear (gelu)", grouped,
      {read(inputs), read(weights), read(biases), written(outputs), written(outputs)}, product + 46 * n,
      [=](const Tensors& t) { grouped_linear(t[0], offsets, t[1], t[2], Activation::gelu, t[3], t[4]); },
      Bytes{.read = 4 * n, .written = 4 * n},
      "cuBLASLt's GELU is another function, and has no derivative: a second pass over y");
  row("linear backward input", grouped, {read(outputs), read(weights), written(inputs)}, product,
      [=](const Tensors& t) { grouped_linear_backward_input(t[0], offsets, t[1], t[2], Write::assign); });
  row("linear backward parameters", grouped, {read(outputs), read(inputs), updated(weights), updated(biases)},
      product + n,
      [=](const Tensors& t) { grouped_linear_backward_parameters(t[0], t[1], offsets, t[2], t[3]); });
  row("linear, independent rows", sizes, {read(inputs), read({1, out, in}), read({1, out}), written(outputs)},
      product + 2 * n, [=, whole = equal_offsets(1, rows)](const Tensors& t) {
        grouped_linear(t[0], whole, t[1], t[2], Activation::relu, t[3], {}, RowBits::independent);
      });
}

// The product behind linear layers with run.precision = bf16.
template <class Row>
void bf16_row(bool small, const Row& row) {
  const Index side = small ? 128 : 8192;
  const Shape square{side, side};
  row("matmul of bf16", fmt::format("rows {0}, in {0}, out {0}", side),
      {read(square, DType::bf16), read(square, DType::bf16), written(square)},
      2 * std::pow(static_cast<double>(side), 3), [=](const Tensors& t) {
        conclave::cuda::multiply("matmul of bf16", conclave::cuda::MatrixProduct<BFloat16, float>{
                                                       .m = side,
                                                       .n = side,
                                                       .k = side,
                                                       .a = {t[0].data<BFloat16>(), side},
                                                       .b = {t[1].data<BFloat16>(), side, true},
                                                       .c = t[2].data<float>(),
                                                       .c_stride = side});
      });
}

// The operations behind integer linear layers and convolutions. The two products are last.
template <class Row>
void integer_rows(bool small, const Row& row) {
  constexpr QuantLevels kLevels = QuantLevels::affine(7);
  const Index groups = small ? 2 : 8, rows = small ? 128 : 16384, in = small ? 96 : 4096,
              out = small ? 160 : 4096;
  const std::vector<Index> offsets = equal_offsets(groups, rows / groups);
  const std::string sizes = fmt::format("rows {}, in {}, out {}, groups {}", rows, in, out, groups);
  const auto n = static_cast<double>(rows * out);
  const Operand scales = {Use::read, {rows}, DType::f32, [](const Tensor&values) { values.fill(0.01); }},
                zeros = {Use::read, {rows}, DType::f32, [](const Tensor&values) { values.fill(60); }},
                weight_scales = {
                    Use::read, {groups, out}, DType::f32, [](const Tensor&values) { values.fill(0.02); }};
  const auto integers = [](const Tensors& t, std::size_t values, std::size_t scale) {
    return IntegerRows{t[values], t[scale], t[scale + 1]};
  };
  row("quantize_rows", fmt::format("rows {}, columns {}", rows, in),
      {read({rows, in}), written({rows, in}, DType::i8), written({rows}), written({rows})},
      8 * static_cast<double>(rows * in),
      [=](const Tensors& t) { quantize_rows(t[0], kLevels, integers(t, 1, 2)); });
  row("pack_weights", fmt::format("groups {}, out {}, in {}", groups, out, in),
      {read({groups, out, in}), weight_scales, written({groups, out, in}, DType::i8), written({groups, out}),
       written({groups, out}, DType::i32)},
      6 * static_cast<double>(groups * out * in), [=](const Tensors& t) {
        pack_weights(t[0], t[1].reshape({groups * out}), QuantLevels::symmetric(8),
                     IntegerWeights{groups, out, in, t[2], t[3], t[4]});
      });
  const Index images = small ? 3 : 256, side = small ? 12 : 56, channels = small ? 16 : 64;
  const Window window{3, 1, 1};
  const Index pixels = side * side, depth = window.size * window.size * channels;
  row("unfold_integers", fmt::format("{} images of {} x {}, channels {}", images, side, side, channels),
      {read({images, pixels * channels}, DType::i8), read({images}), read({images}),
       written({images * pixels, depth}, DType::i8), written({images * pixels}), written({images * pixels})},
      static_cast<double>(images * pixels * depth), [=](const Tensors& t) {
        unfold_integers(integers(t, 0, 1), kLevels.highest, {images, side, side, channels}, window,
                        integers(t, 3, 4));
      });
  row(
      "integer product (gelu)", sizes,
      {read({rows, in}, DType::i8), scales, zeros, read({groups, out, in}, DType::i8), weight_scales,
       numbers({groups, out}, 1000), read({groups, out}), written({rows, out})},
      2 * n * static_cast<double>(in) + 30 * n,
      [=](const Tensors& t) {
        integer_product(integers(t, 0, 1), kLevels.highest, offsets,
                        IntegerWeights{groups, out, in, t[3], t[4], t[5]}, t[6], Activation::gelu, t[7]);
      },
      Bytes{.read = 4 * n, .written = 4 * n}, "cuBLASLt's sums, which a second pass makes numbers of");
  row(
      "integer product (gelu) to integers", sizes,
      {read({rows, in}, DType::i8), scales, zeros, read({groups, out, in}, DType::i8), weight_scales,
       numbers({groups, out}, 1000), read({groups, out}), written({rows, out}, DType::i8), scales, zeros},
      2 * n * static_cast<double>(in) + 36 * n,
      [=](const Tensors& t) {
        integer_product(integers(t, 0, 1), kLevels.highest, offsets,
                        IntegerWeights{groups, out, in, t[3], t[4], t[5]}, t[6], Activation::gelu,
                        integers(t, 7, 8), kLevels);
      },
      Bytes{.read = 4 * n, .written = 4 * n}, "cuBLASLt's sums, which a second pass makes integers of");
}

// Many small groups, which one kernel of the project computes together.
template <class Row>
void small_group_rows(bool small, const Row& row) {
  const Index groups = small ? 3 : 256, each = small ? 40 : 64, in = small ? 48 : 512,
              out = small ? 80 : 1024;
  const Index rows = groups * each;
  const Shape inputs{rows, in}, outputs{rows, out}, weights{groups, out, in}, biases{groups, out};
  const std::vector<Index> offsets = equal_offsets(groups, each);
  const auto n = static_cast<double>(outputs.numel());
  const double product = 2 * n * static_cast<double>(in);
  const std::string sizes = fmt::format("groups {}, {} rows each, in {}, out {}", groups, each, in, out);
  row("small groups (gelu)", sizes,
      {read(inputs), read(weights), read(biases), written(outputs), written(outputs)}, product + 46 * n,
      [=](const Tensors& t) { grouped_linear(t[0], offsets, t[1], t[2], Activation::gelu, t[3], t[4]); });
  row("small groups backward input", sizes, {read(outputs), read(weights), written(inputs)}, product,
      [=](const Tensors& t) { grouped_linear_backward_input(t[0], offsets, t[1], t[2], Write::assign); });
  row("small groups backward parameters", sizes,
      {read(outputs), read(inputs), updated(weights), updated(biases)}, product + n,
      [=](const Tensors& t) { grouped_linear_backward_parameters(t[0], t[1], offsets, t[2], t[3]); });
}

// Normalizations of images: two passes over the images forward and two backward, with small tables between
// them.
template <class Row>
void image_rows(bool small, const Row& row) {
  const Index images = small ? 24 : 256, side = small ? 11 : 56, channels = small ? 72 : 256, groups = 8;
  const Shape pixels{images, side, side, channels}, table{images, channels}, one{1, channels};
  const std::string sizes = fmt::format("{} images of {} x {}, channels {}", images, side, side, channels);
  const auto n = static_cast<double>(pixels.numel());

  row("channel_moments", sizes, {read(pixels), written(table), written(table)}, 10 * n,
      [](const Tensors& t) { channel_moments(t[0], t[1], t[2]); });
  // Few images, so that several blocks share each image.
  const Index few = small ? 2 : 8, wide = small ? 48 : 512;
  row("channel_moments, few images", fmt::format("{} images of {} x {}, channels {}", few, wide, wide, 64),
      {read({few, wide, wide, 64}), written({few, 64}), written({few, 64})},
      10 * static_cast<double>(few * wide * wide * 64),
      [](const Tensors& t) { channel_moments(t[0], t[1], t[2]); });
  row("scale_channels (hard_swish)", sizes,
      {read(pixels), read(table), read(table), read(one), written(pixels)}, 7 * n,
      [](const Tensors& t) { scale_channels(t[0], t[1], t[2], t[3], Activation::hard_swish, t[4], {}); });
  row("channel_dots", sizes, {read(pixels), read(pixels), read(table), written(table), written(table)}, 4 * n,
      [](const Tensors& t) { channel_dots(t[0], t[1], t[2], t[3], t[4]); });
  row("channel_dots (hard_swish)", sizes,
      {updated(pixels), read(pixels), read(table), read(table), read(one), written(table), written(table)},
      14 * n, [](const Tensors& t) {
        channel_dots(t[0], t[1], t[2], t[5], t[6], {t[3], t[4], Activation::hard_swish});
      });
  row("scale_channels backward", sizes,
      {read(pixels), read(pixels), read(table), read(table), read(table), read(table), written(pixels)},
      5 * n, [](const Tensors& t) {
        scale_channels_backward(t[0], t[1], t[2], t[3], t[4], t[5], t[6], Write::assign);
      });

  // The tables, with so many images that a table is much larger than one of its rows.
  const Index many = small ? 384 : 16384;
  const Shape tables{many, channels}, totals{2, channels}, vector{channels};
  const std::string table_text = fmt::format("{} images, channels {}", many, channels);
  const auto m = static_cast<double>(tables.numel());
  row("group_norm_table", table_text,
      {read(tables), read(tables), read(vector), written(tables), written(tables), written(tables)}, 8 * m,
      [=](const Tensors& t) {
        group_norm_table(t[0], t[1], side * side, groups, 1e-5, t[2], t[3], t[4], t[5]);
      });
  row(
      "group_norm_backward_table", table_text,
      {read(tables), read(tables), read(vector), read(tables), written(tables), written(tables),
       updated(vector), updated(vector)},
      10 * m,
      [=](const Tensors& t) {
        group_norm_backward_table(t[0], t[1], side * side, groups, t[2], t[3], t[4], t[5], t[6], t[7]);
      },
      Bytes{.read = 4 * 2 * m + 4 * m * 7 / 8},
      "the gradients of gamma and beta, sums over images, are a second pass over tables");
  row("batch_norm_totals", table_text, {read(tables), read(tables), written(totals, DType::f64)}, 5 * m,
      [=](const Tensors& t) { batch_norm_totals(t[0], t[1], side * side, t[2]); });
  row("batch_norm_table", table_text,
      {read(totals, DType::f64), read(vector), written(one), written(one), written(one), updated(vector),
       updated(vector)},
      80 * static_cast<double>(channels),
      [](const Tensors& t) { batch_norm_table(t[0], 1000, 1e-5, t[1], t[2], t[3], t[4], t[5], t[6], 0.1); });
  row("batch_norm_running_table", table_text,
      {read(vector),
       {Use::read, vector, DType::f32, [](const Tensor& variance) { variance.fill(1); }},
       read(vector),
       written(one),
       written(one),
       written(one)},
      40 * static_cast<double>(channels),
      [](const Tensors& t) { batch_norm_running_table(t[0], t[1], 1e-5, t[2], t[3], t[4], t[5]); });
  row("batch_norm_backward_totals", table_text,
      {read(tables), read(tables), read(one), written(totals, DType::f64), updated(vector), updated(vector)},
      2 * m, [](const Tensors& t) { batch_norm_backward_totals(t[0], t[1], t[2], t[3], t[4], t[5]); });
  row("batch_norm_backward_table", table_text,
      {read(totals, DType::f64), read(vector), read(one), written(one), written(one)},
      8 * static_cast<double>(channels),
      [](const Tensors& t) { batch_norm_backward_table(t[0], 1000, t[1], t[2], t[3], t[4]); });
}

template <class Row>
void depthwise_rows(bool small, const Row& row) {
  const Index images = small ? 16 : 256, side = small ? 15 : 56, channels = small ? 72 : 256;
  const Shape inputs{images, side, side, channels};
  // Strides 1 and 2. For the largest window, the weights' gradients are computed by rows.
  for (const Window window : {Window{3, 1, 1}, Window{5, 2, 2}, Window{7, 1, 3}}) {
    const Index out = window.positions(side);
    const Shape outputs{images, out, out, channels}, weight{window.size, window.size, channels};
    const std::string name = fmt::format("depthwise ({} x {})", window.size, window.size),
                      sizes = fmt::format("{} images of {} x {}, channels {}, stride {}", images, side, side,
                                          channels, window.stride);
    const double flops = 2 * static_cast<double>(outputs.numel() * window.size * window.size);
    row(name.c_str(), sizes, {read(inputs), read(weight), written(outputs)}, flops,
        [=](const Tensors& t) { depthwise(t[0], t[1], window, t[2]); });
    row((name + " backward input").c_str(), sizes, {read(outputs), read(weight), written(inputs)}, flops,
        [=](const Tensors& t) { depthwise_backward_input(t[0], t[1], window, t[2], Write::assign); });
    row((name + " backward weight").c_str(), sizes,
        {read(outputs),
         read(inputs),
         updated(weight),
         {Use::scratch, {depthwise_parts(images), window.size, window.size, channels}}},
        flops, [=](const Tensors& t) { depthwise_backward_weight(t[0], t[1], window, t[2], t[3]); });
  }
}

template <class Row>
void convolution_rows(bool small, const Row& row) {
  const Index images = small ? 4 : 256, side = small ? 9 : 56, in = small ? 16 : 128, out = small ? 24 : 128;
  const Window window{3, 1, 1};
  const Shape inputs{images, side, side, in}, outputs{images, side, side, out}, weight{out, 3, 3, in};
  const std::string sizes =
      fmt::format("{} images of {} x {}, in {}, out {}, 3 x 3", images, side, side, in, out);
  const auto n = static_cast<double>(outputs.numel());
  const double product = 2 * n * static_cast<double>(9 * in);
  const Tensor none = Tensor::empty({0});
  row("convolution", sizes, {read(inputs), read(weight), written(outputs)}, product,
      [=](const Tensors& t) { convolution(t[0], t[1], {}, window, Activation::none, t[2], {}, none); });
  row(
      "convolution (hard_swish)", sizes,
      {read(inputs), read(weight), read({out}), written(outputs), written(outputs)}, product + 10 * n,
      [=](const Tensors& t) {
        convolution(t[0], t[1], t[2], window, Activation::hard_swish, t[3], t[4], none);
      },
      Bytes{.read = 4 * n, .written = 4 * n},
      "cuDNN has no such activation, and no derivative: a second pass over y");
  row("convolution backward input", sizes, {read(outputs), read(weight), written(inputs)}, product,
      [=](const Tensors& t) { convolution_backward_input(t[0], t[1], window, t[2], Write::assign, none); });
  row(
      "convolution backward parameters", sizes,
      {read(outputs), read(inputs), updated(weight), updated({out})}, product + n,
      [=](const Tensors& t) { convolution_backward_parameters(t[0], t[1], window, t[2], t[3], none); },
      Bytes{.read = 4 * n}, "the bias's gradient is a second pass");
}

}  // namespace

std::vector<Operation> operations(Size size) {
  const bool small = size == Size::small;
  std::vector<Operation> table;
  const auto row = [&](const char* name, const std::string& sizes, std::vector<Operand> operands,
                       double flops, std::function<void(const Tensors&)> run, Bytes more = {},
                       const char* reason = "") {
    table.push_back({name, sizes, std::move(operands), flops, std::move(run), more, reason});
  };

  // ---- Layers of a transformer: rows of tokens
  const Index tokens = small ? 384 : 16384, hidden = small ? 512 : 4096;
  const Shape rows{tokens, hidden};
  const std::string rows_text = fmt::format("tokens {}, hidden {}", tokens, hidden);
  const auto n = static_cast<double>(rows.numel());

  row("activation (gelu)", rows_text, {read(rows), written(rows), written(rows)}, 45 * n,
      [](const Tensors& t) { activation(t[0], Activation::gelu, t[1], t[2]); });
  row("multiply", rows_text, {read(rows), read(rows), written(rows)}, n,
      [](const Tensors& t) { multiply(t[0], t[1], t[2]); });
  row("multiply, added", rows_text, {read(rows), read(rows), updated(rows)}, 2 * n,
      [](const Tensors& t) { multiply(t[0], t[1], t[2], Write::accumulate); });
  row("add", rows_text, {read(rows), read(rows), written(rows)}, n,
      [](const Tensors& t) { add(t[0], t[1], t[2]); });
  row("swap", rows_text, {updated(rows), updated(rows)}, 0, [](const Tensors& t) { swap(t[0], t[1]); });
  row("fill", rows_text, {written(rows)}, 0, [](const Tensors& t) { t[0].fill(1); });
  row("normal_noise", rows_text, {written(rows)}, 100 * n,
      [](const Tensors& t) { normal_noise({.seed = 1}, 0, 0.5, t[0]); });
  row("add_row", rows_text, {read({hidden}, DType::f64), updated(rows)}, n,
      [](const Tensors& t) { add_row(t[0], t[1]); });
  row("scale", rows_text, {read(rows), written(rows)}, n, [](const Tensors& t) { scale(t[0], 0.5, t[1]); });

  row("round_to_bf16", rows_text, {read(rows), written(rows, DType::bf16)}, n, [=](const Tensors& t) {
    conclave::cuda::round_to_bf16("round_to_bf16", {t[0].data<float>(), tokens, hidden, hidden},
                                  t[1].data<BFloat16>());
  });

  constexpr double kRate = 0.1;
  const RandomStream stream{.seed = 1, .step = 2, .tensor = 3};
  row("dropout", rows_text, {read(rows), read(rows), written(rows), written(rows, DType::u8)}, 20 * n,
      [=](const Tensors& t) { dropout(t[0], t[1], kRate, stream, 0, t[2], t[3]); });
  row("dropout backward", rows_text, {read(rows), read(rows, DType::u8), written(rows)}, 2 * n,
      [=](const Tensors& t) { dropout_backward(t[0], t[1], kRate, t[2], Write::assign); });

  for (const bool gelu : {false, true}) {
    const LayerNormOptions options{.gelu = gelu};
    row(gelu ? "layer_norm (gelu)" : "layer_norm", rows_text,
        {read(rows), read({hidden}), read({hidden}), written(rows), written({tokens}), written({tokens})},
        (gelu ? 53 : 8) * n,
        [=](const Tensors& t) { layer_norm(t[0], t[1], t[2], options, t[3], t[4], t[5]); });
    row(gelu ? "layer_norm (gelu) backward" : "layer_norm backward", rows_text,
        {read(rows), read(rows), read({hidden}), read({hidden}), read({tokens}), read({tokens}),
         written(rows), updated({hidden}), updated({hidden})},
        (gelu ? 62 : 17) * n, [=](const Tensors& t) {
          layer_norm_backward(t[0], t[1], t[2], t[3], options, t[4], t[5], t[6], Write::assign, t[7], t[8],
                              {});
        });
  }

  row("softmax", rows_text, {read(rows), written(rows), written({tokens})}, 24 * n,
      [](const Tensors& t) { softmax(t[0], t[1], t[2]); });
  row("add_router_gradients", rows_text, {read(rows), read({tokens}), updated(rows)}, 45 * n,
      [](const Tensors& t) { add_router_gradients(t[0], t[1], {.z = 0.1, .entropy = 0.1}, t[2]); });
  const Index texts = tokens / 64;
  row("add_domain_gradients", rows_text,
      {read(rows), equal_segments(texts, 64),
       Operand{Use::read, {texts}, DType::i32, [](const Tensor& chosen) { chosen.fill(1); }}, updated(rows)},
      3 * n, [](const Tensors& t) { add_domain_gradients(t[0], t[1], t[2], 0.1, 3, t[3]); });
  row("segment_numbers", rows_text, {equal_segments(texts, 64), written({tokens}, DType::i32)}, 0,
      [](const Tensors& t) { segment_numbers(t[0], t[1]); });
  row("softmax backward", rows_text, {read(rows), read(rows), written(rows)}, 4 * n,
      [](const Tensors& t) { softmax_backward(t[0], t[1], t[2], Write::assign); });

  row("column_sums", rows_text, {read(rows), updated({hidden})}, n,
      [](const Tensors& t) { column_sums(t[0], t[1]); });
  row("sum", rows_text, {read(rows)}, n, [](const Tensors& t) { sum(t[0]); });
  const Shape gradients{small ? 5 : 64, small ? 30'000 : 1 << 20};
  row("row_squares", fmt::format("rows {}, columns {}", gradients[0], gradients[1]), {read(gradients)},
      2 * static_cast<double>(gradients.numel()), [](const Tensors& t) {
        std::vector<double> squares(static_cast<std::size_t>(t[0].size(0)));
        add_row_squares(std::array{RowSquares{t[0], squares}}, 1);
      });
  row("scale_rows", fmt::format("rows {}, columns {}", gradients[0], gradients[1]), {updated(gradients)},
      static_cast<double>(gradients.numel()), [](const Tensors& t) {
        scale_rows(t[0], std::vector<double>(static_cast<std::size_t>(t[0].size(0)), 0.5));
      });
  row("sum_of_squares", rows_text, {read(rows)}, 2 * n, [](const Tensors& t) { sum_of_squares(t[0]); });
  row("all_finite", rows_text, {read(rows)}, 2 * n, [](const Tensors& t) { all_finite(t[0]); });

  const Shape half{tokens, hidden / 2};
  row("concatenate_columns", rows_text, {read(half), read(half), written(rows)}, 0,
      [](const Tensors& t) { concatenate_columns(t[0], t[1], t[2]); });
  row("take_columns", rows_text, {{.use = Use::read, .shape = rows, .part = 0.5}, written(half)}, 0,
      [=](const Tensors& t) { take_columns(t[0], hidden / 2, t[1], Write::assign); });

  // ---- A mixture of experts
  const Index experts = 64, k = 4, slots = tokens * k;
  const std::string gate_text = fmt::format("tokens {}, experts {}, k {}", tokens, experts, k);
  const auto scores = static_cast<double>(tokens * experts);
  row("top_k_gate", gate_text,
      {read({tokens, experts}), read({experts}), written({tokens, k}, DType::i32), written({tokens, k})},
      3 * k * scores, [](const Tensors& t) { top_k_gate(t[0], {.bias = t[1], .factor = {}}, t[2], t[3]); });
  // The scores of the chosen experts, and those in the same sectors.
  const Operand few_scores{.use = Use::read, .shape = {tokens, experts}, .part = 8.0 * k / experts};
  row("top_k_gate backward", gate_text,
      {read({tokens, k}), few_scores, choices(tokens, k, experts), read({tokens, k}),
       written({tokens, experts})},
      scores, [](const Tensors& t) { top_k_gate_backward(t[0], t[1], t[2], t[3], t[4], Write::assign); });
  row(
      "count_experts", gate_text, {choices(tokens, k, experts)}, 0,
      [=](const Tensors& t) {
        std::vector<Index> counts(static_cast<std::size_t>(experts));
        count_experts(t[0], counts);
      },
      {.read = 8.0 * experts, .written = 8.0 * experts}, "counts: set to 0, added to, copied to the host");
  row(
      "assign_slots", gate_text, {choices(tokens, k, experts), written({tokens, k}, DType::i32)}, 0,
      [=](const Tensors& t) {
        std::vector<SlotRange> ranges(static_cast<std::size_t>(experts), SlotRange{.rows = slots});
        assign_slots(t[0], ranges, t[1]);
      },
      sort_bytes(slots, experts), "the sort by expert that fixes their order");

  const std::string moved_text = fmt::format("{}, k {}", rows_text, k);
  const Shape head{slots / 2, hidden}, tail{slots - slots / 2, hidden};
  const Operand slot_of = numbers({tokens, k}, slots);
  const auto moved = static_cast<double>(slots * hidden);
  row("gather_rows", moved_text, {read(rows), slot_of, written(head), written(tail)}, 0,
      [](const Tensors& t) {
        gather_rows(t[0], t[1], std::array{t[2], t[3]});
      });
  row("combine_rows", moved_text, {read(head), read(tail), slot_of, read({tokens, k}), written(rows)},
      2 * moved, [](const Tensors& t) {
        combine_rows(std::array{t[0], t[1]}, t[2], t[3], t[4], Write::assign);
      });
  row("combine_rows backward", moved_text,
      {read(rows), read(head), read(tail), slot_of, read({tokens, k}), written(head), written(tail),
       written({tokens, k})},
      3 * moved, [](const Tensors& t) {
        combine_rows_backward(t[0], std::array{t[1], t[2]}, t[3], t[4], std::array{t[5], t[6]}, t[7]);
      });

  // ---- Tables, bags and segments
  const Index vocabulary = tokens;  // every row is used
  const std::string table_text = fmt::format("{}, vocabulary {}", rows_text, vocabulary);
  const Operand ids = numbers({tokens}, vocabulary);
  row("embedding", table_text, {ids, read({vocabulary, hidden}), written(rows)}, 0,
      [](const Tensors& t) { embedding(t[0], t[1], t[2]); });
  row(
      "embedding backward", table_text, {read(rows), ids, updated({vocabulary, hidden})}, n,
      [](const Tensors& t) { embedding_backward(t[0], t[1], t[2]); }, sort_bytes(tokens, vocabulary), kSort);

  const Index each = 8, segments = tokens / each;
  const Shape reduced{segments, hidden};
  const Operand offsets = equal_segments(segments, each);
  const std::string bag_text = fmt::format("{}, {} ids a bag", table_text, each);
  row("embedding_bag", bag_text, {ids, offsets, read({vocabulary, hidden}), written(reduced)}, n,
      [](const Tensors& t) { embedding_bag(t[0], t[1], 1.0, t[2], t[3]); });
  Bytes spreading = sort_bytes(tokens, vocabulary);
  spreading.read += 4.0 * static_cast<double>(tokens + segments);
  spreading.written += 4.0 * static_cast<double>(tokens + segments);
  row(
      "embedding_bag backward", bag_text, {read(reduced), ids, offsets, updated({vocabulary, hidden})}, 2 * n,
      [](const Tensors& t) { embedding_bag_backward(t[0], t[1], t[2], 1.0, t[3]); }, spreading, kSort);

  const std::string segment_text = fmt::format("{}, {} a segment", rows_text, each);
  row("segment_mean", segment_text, {read(rows), offsets, written(reduced)}, n,
      [](const Tensors& t) { segment_mean(t[0], t[1], t[2]); });
  row("segment_mean backward", segment_text, {read(reduced), offsets, written(rows)}, n,
      [](const Tensors& t) { segment_mean_backward(t[0], t[1], t[2], Write::assign); });
  row("segment_max", segment_text, {read(rows), offsets, written(reduced), written(reduced, DType::i32)}, n,
      [](const Tensors& t) { segment_max(t[0], t[1], t[2], t[3]); });
  // Nearly every sector of dx contains a winner, so all of dx counts.
  row("segment_max backward", segment_text,
      {read(reduced),
       {Use::read, reduced, DType::i32,
        [=](const Tensor& winners) {
          Index i = 0;
          for (std::int32_t& winner : winners.span<std::int32_t>()) {
            const Index segment = i / hidden, column = i++ % hidden;
            winner = static_cast<std::int32_t>(segment * each + column % each);
          }
        }},
       updated(rows)},
      n / static_cast<double>(each), [](const Tensors& t) { segment_max_backward(t[0], t[1], t[2]); });

  attention_rows(small, row);
  lstm_rows(small, row);
  product_rows(small, row);
  bf16_row(small, row);
  table.back().arithmetic = Arithmetic::bf16_products;
  small_group_rows(small, row);
  image_rows(small, row);
  depthwise_rows(small, row);
  convolution_rows(small, row);

  // ---- Losses
  const Index classes = small ? 2048 : 32768, examples = small ? 96 : 4096;
  const Shape logits{examples, classes};
  const std::string loss_text = fmt::format("rows {}, classes {}", examples, classes);
  const Operand labels = numbers({examples}, classes);
  const auto m = static_cast<double>(logits.numel());
  row("cross_entropy", loss_text,
      {read(logits), labels, written({examples}), written(logits), written({examples}, DType::u8)}, 26 * m,
      [](const Tensors& t) { cross_entropy(t[0], t[1], 0.1, t[2], t[3], t[4]); });
  row("cross_entropy backward", loss_text, {read({examples}), read(logits), labels, written(logits)}, 3 * m,
      [](const Tensors& t) { cross_entropy_backward(t[0], t[1], t[2], 0.1, t[3], Write::assign); });
  row("squared_hinge", loss_text, {read(logits), labels, written({examples})}, 4 * m,
      [](const Tensors& t) { squared_hinge(t[0], t[1], t[2]); });
  row("squared_hinge backward", loss_text, {read({examples}), read(logits), labels, written(logits)}, 4 * m,
      [](const Tensors& t) { squared_hinge_backward(t[0], t[1], t[2], t[3], Write::assign); });
  row("squared_error", fmt::format("rows {}, columns {}", examples, classes),
      {read(logits), read(logits), written({examples})}, 3 * m,
      [](const Tensors& t) { squared_error(t[0], t[1], t[2]); });
  row("squared_error backward", fmt::format("rows {}, columns {}", examples, classes),
      {read({examples}), read(logits), read(logits), written(logits)}, 2 * m,
      [](const Tensors& t) { squared_error_backward(t[0], t[1], t[2], t[3], Write::assign); });

  // ---- Fake quantization
  const Index channels = small ? 96 : 16384, weights = small ? 1024 : 8192;
  const Shape matrix{channels, weights};
  const std::string quantized_text = fmt::format("rows {}, columns {}", channels, weights);
  const auto q = static_cast<double>(matrix.numel());
  const Operand scales = {Use::read, {channels}, DType::f32, [](const Tensor& values) { values.fill(0.01); }};
  row("row_ranges", quantized_text, {read(matrix), written({channels}), written({channels})}, 2 * q,
      [](const Tensors& t) { row_ranges(t[0], t[1], t[2]); });
  row("range_scales", fmt::format("rows {}", matrix.numel()),
      {read({matrix.numel()}), read({matrix.numel()}), written({matrix.numel()}), written({matrix.numel()})},
      8 * q, [](const Tensors& t) { range_scales(t[0], t[1], QuantLevels::affine(8), t[2], t[3]); });
  row("fake_quantize", quantized_text, {read(matrix), scales, written(matrix)}, 5 * q,
      [](const Tensors& t) { fake_quantize(t[0], t[1], Tensor(), {}, t[2]); });
  row("fake_quantize backward", quantized_text,
      {read(matrix), read(matrix), scales, written(matrix), written({channels})}, 10 * q,
      [](const Tensors& t) {
        fake_quantize_backward(t[0], t[1], t[2], Tensor(), {}, t[3], Write::assign, t[4]);
      });

  integer_rows(small, row);
  for (Operation& product : std::span(table).last(2)) product.arithmetic = Arithmetic::integer_products;

  // ---- The optimizer
  const Shape parameters{small ? 100'000 : Index{1} << 27};
  row("adamw", fmt::format("parameters {}", parameters.numel()),
      {updated(parameters), read(parameters), updated(parameters), updated(parameters), updated(parameters),
       updated({kAdamWNumbers})},
      40 * static_cast<double>(parameters.numel()), [](const Tensors& t) {
        prepare_adamw({.ema = 0.999}, t[5]);
        adamw(t[0], t[1], t[2], t[3], t[4], Decay::on, t[5]);
      });
  return table;
}

}  // namespace conclave::roofline

// The differentiable functions. Each calls its kernel and records how to call the backward kernel. Shapes,
// formulas and sources are documented with the kernels.
#pragma once

#include <span>
#include <utility>

#include "autograd/tape.h"
#include "core/kernels/attention.h"
#include "core/kernels/fake_quantize.h"
#include "core/kernels/gate.h"
#include "core/kernels/layer_norm.h"
#include "core/kernels/matmul.h"
#include "core/kernels/window.h"
#include "core/random.h"

namespace conclave::functions {

/// The same elements in another shape, with the same gradient.
Tensor reshape(const Tensor& x, const Shape& shape);

/// activation(x [rows, in] weight [out, in]^T + bias [out]) -> [rows, out]; bias may be undefined.
Tensor linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
              Activation activation = Activation::none);

/// linear() for groups of rows, each with its own weight: weight [groups, out, in], bias [groups, out];
/// `offsets` (groups + 1) is copied.
Tensor grouped_linear(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                      const Tensor& bias, Activation activation = Activation::none);

/// x [images, height, width, in], weight [out, size, size, in], bias [out] or undefined -> activation of the
/// convolution [images, out height, out width, out].
Tensor convolution(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
                   const kernels::Window& window, Activation activation = Activation::none);

/// x [images, height, width, channels], weight [size, size, channels] -> activation(convolution + bias
/// [channels]) [images, out height, out width, channels]: one window per channel. `bias` and `activation`
/// have no gradient, so only tapes that do not record may use them.
Tensor depthwise(Tape& tape, const Tensor& x, const Tensor& weight, const kernels::Window& window,
                 const Tensor& bias = {}, Activation activation = Activation::none);

/// x [images, ..., channels] -> activation(group normalization of each image, times gamma [channels], plus
/// beta).
Tensor group_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta, Index groups,
                  double epsilon, Activation activation = Activation::none);

/// State and options of batch normalization beside its parameters.
struct BatchNormState {
  Tensor running_mean, running_variance;  ///< [channels], used in inference
  double momentum = 0.1;
  double epsilon = 1e-5;
  Index images = 0;  ///< images of the whole batch; 0: x has all of them
  /// Sums a tensor of f64 in place over all processes that have a part of the batch.
  void (*add_up)(void* context, const Tensor& totals) = nullptr;
  void* context = nullptr;
};

/// x [images, ..., channels] -> activation(normalization of each channel over the whole batch, times gamma
/// [channels], plus beta). With `training`, uses the batch's statistics and updates the state's; else uses
/// the state's.
Tensor batch_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                  const BatchNormState& state, bool training, Activation activation = Activation::none);

/// x [images, ..., channels] times factor [images, channels].
Tensor scale_channels(Tape& tape, const Tensor& x, const Tensor& factor);
/// x with each row multiplied by its factor; x has as many rows as there are factors.
Tensor scale_rows(Tape& tape, const Tensor& x, const Tensor& factor);
/// x [..., channels] times factor [channels].
Tensor scale_last(Tape& tape, const Tensor& x, const Tensor& factor);

/// Row i of the result is row number slots[i] of head [n, hidden] followed by tail [m, hidden]; slots [n + m,
/// 1] i32 is a permutation.
Tensor merge_rows(Tape& tape, const Tensor& head, const Tensor& tail, const Tensor& slots);

/// a [m, k] b [k, n] -> [m, n].
Tensor matmul(Tape& tape, const Tensor& a, const Tensor& b);

/// Element-wise, any shape.
Tensor activation(Tape& tape, const Tensor& x, Activation activation);
Tensor add(Tape& tape, const Tensor& a, const Tensor& b);
Tensor multiply(Tape& tape, const Tensor& a, const Tensor& b);
Tensor scale(Tape& tape, const Tensor& x, double factor);

/// x [rows, hidden] normalized over hidden; with options.gelu, followed by GELU in the same pass.
Tensor layer_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                  kernels::LayerNormOptions options = {});

/// x [rows, columns] rounded to what integers can represent, with a scale and a zero point per row, or [1]
/// for all rows; an undefined zero_point is 0. A scale may be learned: its gradient is LSQ's (Esser et al.
/// 2020), divided by the square root of the highest level times the columns.
Tensor fake_quantize(Tape& tape, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                     QuantLevels levels);
/// fake_quantize() with a scale and zero point from each row's own range; the gradient passes through
/// unchanged.
Tensor fake_quantize_rows(Tape& tape, const Tensor& x, QuantLevels levels);

/// Softmax over the last dimension of x [rows, columns].
Tensor softmax(Tape& tape, const Tensor& x);

/// qkv [tokens, 3 hidden] -> [tokens, hidden]; offsets [sequences + 1] i32 must live as long as the tape.
Tensor attention(Tape& tape, const Tensor& qkv, const Tensor& offsets, kernels::AttentionOptions options);

/// Attention of queries q [rows, hidden] to keys k and values v [key rows, hidden] of the same sequence ->
/// [rows, hidden]; zeros for sequences without keys. offsets and key_offsets [sequences + 1] i32 must live as
/// long as the tape.
Tensor attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets,
                 const Tensor& key_offsets, kernels::AttentionOptions options);
/// The same with keys and values in one tensor, key_value [key rows, 2 hidden].
Tensor attention(Tape& tape, const Tensor& q, const Tensor& key_value, const Tensor& offsets,
                 const Tensor& key_offsets, kernels::AttentionOptions options);

/// projected [rows, 4 hidden] -> [rows, hidden]: an LSTM over each of the `sequences` of rows (sequences + 1
/// offsets). Each of the `groups` of rows (groups + 1 offsets), which consist of whole sequences, has its own
/// weight, recurrent [groups, 4 hidden, hidden]. projected = x W^T + bias comes from grouped_linear. Both
/// offsets are copied.
Tensor lstm(Tape& tape, const Tensor& projected, kernels::RowOffsets groups, kernels::RowOffsets sequences,
            const Tensor& recurrent);

/// Rows of table [vocabulary, hidden] at ids [rows] i32 -> [rows, hidden].
Tensor embedding(Tape& tape, const Tensor& ids, const Tensor& table);

/// scale / sqrt(n) times the sum of table [vocabulary, columns] at each bag's n ids -> [bags, columns]; ids
/// [n] and offsets [bags + 1] i32 must live as long as the tape.
Tensor embedding_bag(Tape& tape, const Tensor& ids, const Tensor& offsets, double scale, const Tensor& table);

/// dropout(x) + residual (where defined). `first` is the global index of x's first element. Rate 0 drops
/// nothing.
Tensor dropout(Tape& tape, const Tensor& x, const Tensor& residual, double rate, const RandomStream& stream,
               Index first);

struct CrossEntropy {
  Tensor losses;         ///< [rows]
  Tensor probabilities;  ///< [rows, classes], not differentiable
  Tensor correct;        ///< [rows] u8
};
CrossEntropy cross_entropy(Tape& tape, const Tensor& logits, const Tensor& labels, double smoothing);

/// Each class against the rest: scores [rows, classes], labels [rows] i32 -> losses [rows].
Tensor squared_hinge(Tape& tape, const Tensor& scores, const Tensor& labels);

/// Mean over columns of (prediction - target)^2, both [rows, columns] -> losses [rows]; target is a constant
/// that must live as long as the tape.
Tensor squared_error(Tape& tape, const Tensor& prediction, const Tensor& target);

struct Gate {
  Tensor experts;  ///< [tokens, k] i32, -1 after a token's last expert
  Tensor weights;  ///< [tokens, k]
};
Gate top_k_gate(Tape& tape, const Tensor& probabilities, const kernels::Selection& selection, Index k,
                kernels::TopP top_p = {});

/// The offsets of segments with `rows` rows each: 0, rows, 2 rows, ... [segments + 1] i32, in host memory.
Tensor even_offsets(Tape& tape, Index segments, Index rows);

/// x [rows, hidden] -> [segments, hidden]; offsets [segments + 1] i32.
Tensor segment_mean(Tape& tape, const Tensor& x, const Tensor& offsets);
Tensor segment_max(Tape& tape, const Tensor& x, const Tensor& offsets);

/// a [rows, m], b [rows, n] -> [rows, m + n].
Tensor concatenate(Tape& tape, const Tensor& a, const Tensor& b);

/// x [rows, hidden] -> views of the first `at` rows and of the remaining rows.
std::pair<Tensor, Tensor> split_rows(Tape& tape, const Tensor& x, Index at);
/// head [m, hidden], tail [n, hidden] -> [m + n, hidden].
Tensor join_rows(Tape& tape, const Tensor& head, const Tensor& tail);

/// Sum of all elements -> [1].
Tensor sum(Tape& tape, const Tensor& x);

}  // namespace conclave::functions

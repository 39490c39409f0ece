// The differentiable functions. Each calls its kernel and records, in a few lines, how to call the backward
// kernel; shapes, formulas and sources stand with the kernels.
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

/// The same elements in another shape, and the same gradient.
Tensor reshape(const Tensor& x, const Shape& shape);

/// activation(x [rows, in] weight [out, in]^T + bias [out]) -> [rows, out]; bias may be undefined.
Tensor linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
              Activation activation = Activation::none);

/// The same for groups of rows with a weight each: weight [groups, out, in], bias [groups, out]; `offsets`
/// (groups + 1) is copied.
Tensor grouped_linear(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                      const Tensor& bias, Activation activation = Activation::none);

/// x [images, height, width, in], weight [out, size, size, in], bias [out] or undefined -> activation of the
/// convolution [images, out height, out width, out].
Tensor convolution(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
                   const kernels::Window& window, Activation activation = Activation::none);

/// x [images, height, width, channels], weight [size, size, channels] -> [images, out height, out width,
/// channels]: a window for each channel. What follows, activation(. + bias [channels]), no tape records.
Tensor depthwise(Tape& tape, const Tensor& x, const Tensor& weight, const kernels::Window& window,
                 const Tensor& bias = {}, Activation activation = Activation::none);

/// x [images, ..., channels] -> activation(group normalization of each image, times gamma [channels], plus
/// beta).
Tensor group_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta, Index groups,
                  double epsilon, Activation activation = Activation::none);

/// What batch normalization has beside its parameters.
struct BatchNormState {
  Tensor running_mean, running_variance;  ///< [channels], which inference takes
  double momentum = 0.1;
  double epsilon = 1e-5;
  Index images = 0;  ///< of the whole batch; 0: those here
  /// Adds a tensor of f64 up, in place, over all processes that have a part of the batch.
  void (*add_up)(void* context, const Tensor& totals) = nullptr;
  void* context = nullptr;
};

/// x [images, ..., channels] -> activation(normalization of each channel over the whole batch, times gamma
/// [channels], plus beta). `training`: by the batch's statistics, which the state learns from; else by the
/// state's.
Tensor batch_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                  const BatchNormState& state, bool training, Activation activation = Activation::none);

/// x [images, ..., channels] times factor [images, channels].
Tensor scale_channels(Tape& tape, const Tensor& x, const Tensor& factor);
/// x, whose rows are as many as there are factors, each times its own.
Tensor scale_rows(Tape& tape, const Tensor& x, const Tensor& factor);
/// x [..., channels] times factor [channels].
Tensor scale_last(Tape& tape, const Tensor& x, const Tensor& factor);

/// Row i is that of number slots[i] among the rows of head [n, hidden] and, behind them, tail [m, hidden];
/// slots [n + m, 1] i32 is a permutation.
Tensor merge_rows(Tape& tape, const Tensor& head, const Tensor& tail, const Tensor& slots);

/// a [m, k] b [k, n] -> [m, n].
Tensor matmul(Tape& tape, const Tensor& a, const Tensor& b);

/// Element-wise, any shape.
Tensor activation(Tape& tape, const Tensor& x, Activation activation);
Tensor add(Tape& tape, const Tensor& a, const Tensor& b);
Tensor multiply(Tape& tape, const Tensor& a, const Tensor& b);
Tensor scale(Tape& tape, const Tensor& x, double factor);

/// x [rows, hidden] normalized over hidden; with options.gelu, GELU of that in the same pass.
Tensor layer_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                  kernels::LayerNormOptions options = {});

/// x [rows, columns] as integers would tell it, by a scale and a zero point for each row or one [1] for all;
/// an undefined zero_point is 0. A scale may be learned: its gradient is LSQ's (Esser et al. 2020), divided
/// by the square root of the highest level times the columns.
Tensor fake_quantize(Tape& tape, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                     QuantLevels levels);
/// The same by scales and zero points that each row's own range gives; its gradient is that of y.
Tensor fake_quantize_rows(Tape& tape, const Tensor& x, QuantLevels levels);

/// Softmax over the last dimension of x [rows, columns].
Tensor softmax(Tape& tape, const Tensor& x);

/// qkv [tokens, 3 hidden] -> [tokens, hidden]; offsets [sequences + 1] i32 must live as long as the tape.
Tensor attention(Tape& tape, const Tensor& qkv, const Tensor& offsets, kernels::AttentionOptions options);

/// Queries q [rows, hidden] see keys k and values v [key rows, hidden] of their sequence -> [rows, hidden],
/// zeros where there are none; offsets and key_offsets [sequences + 1] i32 must live as long as the tape.
Tensor attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets,
                 const Tensor& key_offsets, kernels::AttentionOptions options);
/// The same with key_value [key rows, 2 hidden].
Tensor attention(Tape& tape, const Tensor& q, const Tensor& key_value, const Tensor& offsets,
                 const Tensor& key_offsets, kernels::AttentionOptions options);

/// projected [rows, 4 hidden] -> [rows, hidden]: an LSTM over each of the `sequences` of rows (sequences +
/// 1), with a weight for each group of them: `groups` (groups + 1), recurrent [groups, 4 hidden, hidden];
/// projected = x W^T + bias comes of grouped_linear. Both offsets are copied.
Tensor lstm(Tape& tape, const Tensor& projected, kernels::RowOffsets groups, kernels::RowOffsets sequences,
            const Tensor& recurrent);

/// table [vocabulary, hidden] at ids [rows] i32 -> [rows, hidden].
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

/// One class against the rest: scores [rows, classes], labels [rows] i32 -> losses [rows].
Tensor squared_hinge(Tape& tape, const Tensor& scores, const Tensor& labels);

/// Mean over columns of (prediction - target)^2, both [rows, columns] -> losses [rows]; target is a constant
/// that must live as long as the tape.
Tensor squared_error(Tape& tape, const Tensor& prediction, const Tensor& target);

struct Gate {
  Tensor experts;  ///< [tokens, k] i32, -1 behind a token's last
  Tensor weights;  ///< [tokens, k]
};
Gate top_k_gate(Tape& tape, const Tensor& probabilities, const kernels::Selection& selection, Index k,
                kernels::TopP top_p = {});

/// 0, rows, 2 rows, ... [segments + 1] i32, in host memory: the offsets of segments of as many rows each.
Tensor even_offsets(Tape& tape, Index segments, Index rows);

/// x [rows, hidden] -> [segments, hidden] by offsets [segments + 1] i32.
Tensor segment_mean(Tape& tape, const Tensor& x, const Tensor& offsets);
Tensor segment_max(Tape& tape, const Tensor& x, const Tensor& offsets);

/// a [rows, m], b [rows, n] -> [rows, m + n].
Tensor concatenate(Tape& tape, const Tensor& a, const Tensor& b);

/// x [rows, hidden] -> views of its first `at` rows and of the others.
std::pair<Tensor, Tensor> split_rows(Tape& tape, const Tensor& x, Index at);
/// head [m, hidden], tail [n, hidden] -> [m + n, hidden].
Tensor join_rows(Tape& tape, const Tensor& head, const Tensor& tail);

/// Sum of all elements -> [1].
Tensor sum(Tape& tape, const Tensor& x);

}  // namespace conclave::functions

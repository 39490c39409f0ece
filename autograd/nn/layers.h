// The layers models are assembled from. Each is a Module; calling it records on the tape. Parameter names and
// layouts are PyTorch's (weight [out, in]).
#pragma once

#include "autograd/functions/functions.h"
#include "autograd/nn/key_value_cache.h"
#include "autograd/nn/module.h"
#include "autograd/nn/quantizer.h"

namespace conclave {

class Linear : public Module, public Quantizable {
 public:
  Linear(Index in, Index out, bool bias = true);
  Kind quantizable_kind() const override { return Kind::linear; }
  void quantize(Quantization& shared) override;
  /// x [rows, in] -> activation(x weight^T + bias) [rows, out]
  Tensor operator()(Tape& tape, const Tensor& x, Activation activation = Activation::none) const;
  /// The same with rows [begin, end) of the weight alone, for tapes that do not record -> [rows, end - begin]
  Tensor part(Tape& tape, const Tensor& x, Index begin, Index end) const;
  Parameter& weight() const { return weight_; }
  double flops(Extent& extent) const override;

 private:
  Parameter& weight_;
  Parameter* bias_;
  std::unique_ptr<Quantizer> quantizer_;  // null: it is not quantized
};

class Embedding : public Module {
 public:
  Embedding(Index vocabulary, Index hidden, double deviation = 0.02);
  /// ids [rows] i32 -> [rows, hidden]
  Tensor operator()(Tape& tape, const Tensor& ids) const;
  /// The table [vocabulary, hidden], for a head that shares it.
  const Tensor& table() const { return table_.value; }

 private:
  Parameter& table_;
};

class LayerNorm : public Module {
 public:
  explicit LayerNorm(Index hidden, kernels::LayerNormOptions options = {});
  Tensor operator()(Tape& tape, const Tensor& x) const;
  const kernels::LayerNormOptions& options() const { return options_; }

 private:
  Parameter& gamma_;
  Parameter& beta_;
  kernels::LayerNormOptions options_;
};

/// Self-attention over packed sequences, with one product for query, key and value.
class MultiHeadAttention : public Module {
 public:
  MultiHeadAttention(Index hidden, Index heads, kernels::AttentionMask mask = kernels::AttentionMask::none);
  /// x [tokens, hidden], offsets [sequences + 1] i32 -> [tokens, hidden]
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& offsets) const {
    return (*this)(tape, x, offsets, options_.mask);
  }
  /// The same by another mask than the layer's own.
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& offsets, kernels::AttentionMask mask) const;
  /// The same, by a causal mask, for the rows of a pass of `cache`, which see those that it has of layer
  /// number `layer`, too. For tapes that do not record.
  Tensor operator()(Tape& tape, const Tensor& x, KeyValueCache& cache, Index layer) const;
  /// The mean of that over each sequence, [sequences, hidden]. The output's projection, being linear, comes
  /// after the mean and so has a row per sequence to do, not one per token.
  Tensor mean(Tape& tape, const Tensor& x, const Tensor& offsets) const;
  double flops(Extent& extent) const override;
  double mean_flops(Extent& extent) const;  ///< of mean()
  Index heads() const { return options_.heads; }

 private:
  double attention_flops(Extent& extent) const;

  Linear qkv_, out_;
  kernels::AttentionOptions options_;
};

/// Attention between two modalities of the same examples, each example's rows of the one to its rows of the
/// other, with one query matrix for both.
class CrossAttention : public Module {
 public:
  CrossAttention(Index hidden, Index heads);
  /// first and second [rows, hidden], each with offsets [sequences + 1] i32 of its own -> first's rows, which
  /// attended to second's, and second's, which attended to first's. Where an example lacks the other
  /// modality, the output's projection is given zeros.
  std::pair<Tensor, Tensor> operator()(Tape& tape, const Tensor& first, const Tensor& first_offsets,
                                       const Tensor& second, const Tensor& second_offsets) const;
  /// Of an example with as many rows of the one as of the other; or with so many of either.
  double flops(Extent& extent) const override;
  double flops(const Extent& first, const Extent& second) const;
  Index heads() const { return heads_; }

 private:
  Linear query_, first_key_value_, second_key_value_, out_;
  Index heads_;
};

/// The randomness and position of one forward pass; dropout streams are numbered in order of use.
struct ForwardContext {
  bool training = true;
  RandomStream stream = {};  ///< of this step; `tensor` counts up
  Index first_token = 0;     ///< global index of this rank's first token in the micro-batch
  Index first_sequence = 0;
  bool calibrating = false;    ///< inference whose loads a balancer learns from, and does not correct
  Index global_tokens = 0;     ///< of the micro-batch over all ranks; auxiliary losses are means over these
  Index global_sequences = 0;  ///< likewise
  double loss_scale = 1;       ///< of this micro-batch in the step: 1 / number of micro-batches
  Tensor in_domain = {};       ///< [sequences] i32, 1 for texts of the domain; undefined: none is
  double domain_strength = 0;  ///< share of the domain's prior that acts in this step
  Index global_images = 0;     ///< of the micro-batch over all ranks; 0: those here are all
  /// Adds a tensor of f64 up over the ranks that have those images, as functions::BatchNormState says.
  void (*add_up)(void* context, const Tensor& totals) = nullptr;
  void* add_up_context = nullptr;
  Tensor router_scores = {};  ///< [tokens, experts], added to those of every router; undefined: nothing is

  RandomStream next_stream() {
    ++stream.tensor;
    return stream;
  }
};

/// dropout(x) + residual, or x + residual where not training; `first_row` is the global index of x's first
/// row.
Tensor apply_dropout(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& residual,
                     double rate, Index first_row);

/// A dense feed-forward layer: down(gelu(up(x))).
class FeedForward : public Module {
 public:
  FeedForward(Index hidden, Index ffn, Activation activation = Activation::gelu);
  Tensor operator()(Tape& tape, const Tensor& x) const;
  Activation activation() const { return activation_; }

 private:
  Linear up_, down_;
  Activation activation_;
};

/// One pre-norm Transformer block (Xiong et al. 2020) with a dense feed-forward layer:
/// x += dropout(attention(norm(x))); x += dropout(feed_forward(norm(x))).
class TransformerBlock : public Module {
 public:
  TransformerBlock(Index hidden, Index heads, Index ffn, double dropout,
                   kernels::AttentionMask mask = kernels::AttentionMask::none);
  Tensor operator()(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets) const;

 private:
  LayerNorm attention_norm_;
  MultiHeadAttention attention_;
  LayerNorm feed_forward_norm_;
  FeedForward feed_forward_;
  double dropout_;
};

}  // namespace conclave

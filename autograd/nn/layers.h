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
  /// The same with only rows [begin, end) of the weight -> [rows, end - begin]. For tapes that do not record.
  Tensor part(Tape& tape, const Tensor& x, Index begin, Index end) const;
  Parameter& weight() const { return weight_; }
  double flops(Extent& extent) const override;

 private:
  Parameter& weight_;
  Parameter* bias_;
  std::unique_ptr<Quantizer> quantizer_;  // null: not quantized
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

/// Self-attention over packed sequences, with one product for queries, keys and values.
class MultiHeadAttention : public Module {
 public:
  MultiHeadAttention(Index hidden, Index heads, kernels::AttentionMask mask = kernels::AttentionMask::none);
  /// x [tokens, hidden], offsets [sequences + 1] i32 -> [tokens, hidden]
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& offsets) const {
    return (*this)(tape, x, offsets, options_.mask);
  }
  /// The same with another mask than the layer's own.
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& offsets, kernels::AttentionMask mask) const;
  /// The same, with a causal mask, for the new rows of a pass of `cache`, which also see the cached rows of
  /// layer number `layer`. For tapes that do not record.
  Tensor operator()(Tape& tape, const Tensor& x, KeyValueCache& cache, Index layer) const;
  /// The mean of the attention's output over each sequence, [sequences, hidden]. The output projection is
  /// linear, so it is applied after the mean: to one row per sequence instead of one per token.
  Tensor mean(Tape& tape, const Tensor& x, const Tensor& offsets) const;
  double flops(Extent& extent) const override;
  double mean_flops(Extent& extent) const;  ///< operations of mean()
  Index heads() const { return options_.heads; }

 private:
  double attention_flops(Extent& extent) const;

  Linear qkv_, out_;
  kernels::AttentionOptions options_;
};

/// Attention between two modalities of the same examples: each example's rows of one modality attend to its
/// rows of the other, with one query matrix for both directions.
class CrossAttention : public Module {
 public:
  CrossAttention(Index hidden, Index heads);
  /// first and second [rows, hidden], each with its own offsets [sequences + 1] i32 -> the rows of `first`
  /// after attention to `second`, and the rows of `second` after attention to `first`. If an example lacks
  /// the other modality, the input of the output projection is zeros.
  std::pair<Tensor, Tensor> operator()(Tape& tape, const Tensor& first, const Tensor& first_offsets,
                                       const Tensor& second, const Tensor& second_offsets) const;
  /// Operations for an example with `extent` rows of each modality; or with the two given numbers of rows.
  double flops(Extent& extent) const override;
  double flops(const Extent& first, const Extent& second) const;
  Index heads() const { return heads_; }

 private:
  Linear query_, first_key_value_, second_key_value_, out_;
  Index heads_;
};

/// RandomStream::tensor counts the uses of random numbers in a step. Each batch of the step (a micro-batch,
/// or a part of a client's step) has a range of this many numbers, and its forward pass may take all but the
/// first.
inline constexpr std::uint32_t kStreamsPerBatch = 1u << 14;
/// Batches that a step may have. Numbers from 2^31 on are left to other uses, such as the order of examples.
inline constexpr std::int64_t kMostBatchesPerStep = (std::int64_t{1} << 31) / kStreamsPerBatch;
/// The first number of batch 0, 1, ... of a step. Throws Error from kMostBatchesPerStep on.
inline std::uint32_t first_stream(std::int64_t batch) {
  require(batch >= 0 && batch < kMostBatchesPerStep,
          "batch {} of a step has no random numbers of its own; a step may have {} batches", batch,
          kMostBatchesPerStep);
  return static_cast<std::uint32_t>(batch) * kStreamsPerBatch;
}

/// The randomness and position of one forward pass; dropout streams are numbered in order of use.
struct ForwardContext {
  bool training = true;
  RandomStream stream = {};  ///< of this step; `tensor` counts its uses
  Index first_token = 0;     ///< global index of this rank's first token in the micro-batch
  Index first_sequence = 0;
  bool calibrating = false;    ///< inference from which a balancer learns loads, without correcting batches
  Index global_tokens = 0;     ///< tokens of the micro-batch over all ranks, for means in auxiliary losses
  Index global_sequences = 0;  ///< sequences of the micro-batch over all ranks
  double loss_scale = 1;       ///< factor of this micro-batch's loss: 1 / number of micro-batches in the step
  Tensor in_domain = {};       ///< [sequences] i32, 1 for texts of the domain; undefined: none
  double domain_strength = 0;  ///< share of the domain's prior that is applied in this step
  Index global_images = 0;     ///< images of the micro-batch over all ranks; 0: this rank has all
  /// Sums a tensor of f64 over the ranks that have these images; see functions::BatchNormState.
  void (*add_up)(void* context, const Tensor& totals) = nullptr;
  void* add_up_context = nullptr;
  Tensor router_scores = {};  ///< [tokens, experts], added to the scores of every router; undefined: none

  /// Throws Error where the batch has used all its streams, because the next would be another batch's.
  RandomStream next_stream() {
    ++stream.tensor;
    require(stream.tensor % kStreamsPerBatch != 0,
            "a forward pass asks for more than {} streams of random numbers (two for each layer, and one for "
            "its router's noise); make the model shallower, or let a plug-in ask for fewer",
            kStreamsPerBatch - 1);
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

#include "autograd/nn/layers.h"

namespace conclave {

Linear::Linear(Index in, Index out, bool bias)
    : weight_(add_parameter("weight", {out, in}, Initializer::fan_in(in))),
      bias_(bias ? &add_parameter("bias", {out}, Initializer::constant(0), false) : nullptr) {}

void Linear::quantize(Quantization& shared) {
  quantizer_ = std::make_unique<Quantizer>(shared, weight_);
  add_module("", *quantizer_);
}

Tensor Linear::operator()(Tape& tape, const Tensor& x, Activation activation) const {
  const Tensor bias = bias_ ? bias_->value : Tensor();
  if (quantizer_) return quantizer_->linear(tape, x, weight_.value, bias, activation);
  return functions::linear(tape, x, weight_.value, bias, activation);
}

Tensor Linear::part(Tape& tape, const Tensor& x, Index begin, Index end) const {
  require(!tape.recording(), "linear: a part of the weight has no gradient of its own");
  const Tensor bias = bias_ ? bias_->value.rows(begin, end) : Tensor();
  if (quantizer_) return quantizer_->linear_part(tape, x, weight_.value, bias, begin, end);
  return functions::linear(tape, x, weight_.value.rows(begin, end), bias);
}

double Linear::flops(Extent& extent) const {
  return 2 * static_cast<double>(extent.rows() * weight_.shape.numel());
}

Embedding::Embedding(Index vocabulary, Index hidden, double deviation)
    : table_(add_parameter("weight", {vocabulary, hidden}, Initializer::normal(deviation))) {}

Tensor Embedding::operator()(Tape& tape, const Tensor& ids) const {
  return functions::embedding(tape, ids, table_.value);
}

LayerNorm::LayerNorm(Index hidden, kernels::LayerNormOptions options)
    : gamma_(add_parameter("weight", {hidden}, Initializer::constant(1), false)),
      beta_(add_parameter("bias", {hidden}, Initializer::constant(0), false)),
      options_(options) {}

Tensor LayerNorm::operator()(Tape& tape, const Tensor& x) const {
  return functions::layer_norm(tape, x, gamma_.value, beta_.value, options_);
}

MultiHeadAttention::MultiHeadAttention(Index hidden, Index heads, kernels::AttentionMask mask)
    : qkv_(hidden, 3 * hidden), out_(hidden, hidden), options_{heads, mask} {
  require(heads > 0 && hidden % heads == 0, "attention: {} heads do not divide a hidden size of {}", heads,
          hidden);
  add_module("qkv", qkv_);
  add_module("out", out_);
}

Tensor MultiHeadAttention::operator()(Tape& tape, const Tensor& x, const Tensor& offsets,
                                      kernels::AttentionMask mask) const {
  return out_(tape, functions::attention(tape, qkv_(tape, x), offsets, {options_.heads, mask}));
}

Tensor MultiHeadAttention::operator()(Tape& tape, const Tensor& x, KeyValueCache& cache, Index layer) const {
  const Index hidden = x.size(1);
  const Tensor query = qkv_.part(tape, x, 0, hidden),
               key_value = cache.append(layer, qkv_.part(tape, x, hidden, 3 * hidden));
  return out_(tape, functions::attention(tape, query, key_value, cache.offsets(), cache.key_offsets(),
                                         {options_.heads, kernels::AttentionMask::causal}));
}

Tensor MultiHeadAttention::mean(Tape& tape, const Tensor& x, const Tensor& offsets) const {
  const Tensor attended = functions::attention(tape, qkv_(tape, x), offsets, options_);
  const ExampleScope scope(tape, tape.one_row_each());
  return out_(tape, functions::segment_mean(tape, attended, offsets));
}

// Each visible pair of a query and a key costs one product with the key and one with the value.
double MultiHeadAttention::attention_flops(Extent& extent) const {
  const auto rows = static_cast<double>(extent.rows()), hidden = static_cast<double>(out_.weight().shape[0]);
  const double keys = options_.mask == kernels::AttentionMask::causal ? (rows + 1) / 2 : rows;
  return qkv_.flops(extent) + 2 * 2 * rows * keys * hidden;
}

double MultiHeadAttention::flops(Extent& extent) const {
  const double attention = attention_flops(extent);
  return attention + out_.flops(extent);
}

double MultiHeadAttention::mean_flops(Extent& extent) const {
  const double attention = attention_flops(extent);
  extent = {};
  return attention + out_.flops(extent);
}

CrossAttention::CrossAttention(Index hidden, Index heads)
    : query_(hidden, hidden),
      first_key_value_(hidden, 2 * hidden),
      second_key_value_(hidden, 2 * hidden),
      out_(hidden, hidden),
      heads_(heads) {
  require(heads > 0 && hidden % heads == 0, "cross-attention: {} heads do not divide a hidden size of {}",
          heads, hidden);
  add_module("query", query_);
  add_module("first.key_value", first_key_value_);
  add_module("second.key_value", second_key_value_);
  add_module("out", out_);
}

std::pair<Tensor, Tensor> CrossAttention::operator()(Tape& tape, const Tensor& first,
                                                     const Tensor& first_offsets, const Tensor& second,
                                                     const Tensor& second_offsets) const {
  const auto attend = [&](const Tensor& x, const Tensor& offsets, const Tensor& key_value,
                          const Tensor& key_offsets) {
    return out_(tape, functions::attention(tape, query_(tape, x), key_value, offsets, key_offsets, {heads_}));
  };
  const Tensor to_second = attend(first, first_offsets, second_key_value_(tape, second), second_offsets);
  return {to_second, attend(second, second_offsets, first_key_value_(tape, first), first_offsets)};
}

double CrossAttention::flops(Extent& extent) const { return flops(extent, extent); }

double CrossAttention::flops(const Extent& first, const Extent& second) const {
  const auto hidden = static_cast<double>(out_.weight().shape[0]);
  const double pairs = static_cast<double>(first.rows()) * static_cast<double>(second.rows());
  // Projections to queries, keys, values and outputs for all rows; then, in both directions, one product with
  // the key and one with the value for each pair.
  return 2 * 4 * static_cast<double>(first.rows() + second.rows()) * hidden * hidden +
         2 * 2 * 2 * pairs * hidden;
}

Tensor apply_dropout(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& residual,
                     double rate, Index first_row) {
  const RandomStream stream = context.next_stream();  // also if unused: later streams keep their numbers
  if (context.training && rate > 0) {
    return functions::dropout(tape, x, residual, rate, stream, first_row * x.size(-1));
  }
  return residual.defined() ? functions::add(tape, x, residual) : x;
}

FeedForward::FeedForward(Index hidden, Index ffn, Activation activation)
    : up_(hidden, ffn), down_(ffn, hidden), activation_(activation) {
  add_module("up", up_);
  add_module("down", down_);
}

Tensor FeedForward::operator()(Tape& tape, const Tensor& x) const {
  return down_(tape, up_(tape, x, activation_));
}

TransformerBlock::TransformerBlock(Index hidden, Index heads, Index ffn, double dropout,
                                   kernels::AttentionMask mask)
    : attention_norm_(hidden),
      attention_(hidden, heads, mask),
      feed_forward_norm_(hidden),
      feed_forward_(hidden, ffn),
      dropout_(dropout) {
  add_module("attention_norm", attention_norm_);
  add_module("attention", attention_);
  add_module("feed_forward_norm", feed_forward_norm_);
  add_module("feed_forward", feed_forward_);
}

Tensor TransformerBlock::operator()(Tape& tape, ForwardContext& context, const Tensor& x,
                                    const Tensor& offsets) const {
  const Tensor attended = attention_(tape, attention_norm_(tape, x), offsets);
  const Tensor middle = apply_dropout(tape, context, attended, x, dropout_, context.first_token);
  const Tensor fed = feed_forward_(tape, feed_forward_norm_(tape, middle));
  return apply_dropout(tape, context, fed, middle, dropout_, context.first_token);
}

}  // namespace conclave

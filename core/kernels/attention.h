// Multi-head scaled dot-product attention (Vaswani et al. 2017, eq. 1) over sequences packed end to end: no
// padding is computed on. The forward pass keeps one log-sum-exp per token and head; the backward pass
// recomputes the probabilities from it (Dao et al. 2022, section 3.1), so memory does not grow with the
// square of the length.
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

enum class AttentionMask : std::uint8_t { none, causal };

struct AttentionOptions {
  Index heads = 1;
  AttentionMask mask = AttentionMask::none;  ///< within a sequence; tokens never see another sequence
};

/// qkv [tokens, 3 hidden]: each token's query, key and value, each divided into heads; offsets [sequences +
/// 1] i32, rising from 0 to tokens. out [tokens, hidden]; lse [tokens, heads].
void attention(const Tensor& qkv, const Tensor& offsets, AttentionOptions options, const Tensor& out,
               const Tensor& lse);

/// dqkv [tokens, 3 hidden] is assigned.
void attention_backward(const Tensor& dout, const Tensor& qkv, const Tensor& offsets,
                        AttentionOptions options, const Tensor& out, const Tensor& lse, const Tensor& dqkv);

/// The CUDA twins, to which those above hand over; for heads of at most 256 elements.
namespace cuda {
void attention(const Tensor& qkv, const Tensor& offsets, AttentionOptions options, const Tensor& out,
               const Tensor& lse);
void attention_backward(const Tensor& dout, const Tensor& qkv, const Tensor& offsets,
                        AttentionOptions options, const Tensor& out, const Tensor& lse, const Tensor& dqkv);
}  // namespace cuda

}  // namespace conclave::kernels

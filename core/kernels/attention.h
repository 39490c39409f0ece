// Multi-head scaled dot-product attention (Vaswani et al. 2017, eq. 1) over sequences packed end to end,
// without padding. The forward pass keeps one log-sum-exp per query and head; the backward pass
// recomputes the probabilities from it (Dao et al. 2022, section 3.1), so memory does not grow with the
// square of the length.
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

enum class AttentionMask : std::uint8_t { none, causal };

struct AttentionOptions {
  Index heads = 1;
  /// Applies within a sequence; queries never see another sequence's keys. causal: with n queries and m keys,
  /// query i sees the keys up to number i + m - n, so that the last query sees all of them.
  AttentionMask mask = AttentionMask::none;
};

/// Queries q [rows, hidden] attend to keys k and values v [key rows, hidden]; hidden is divided into heads.
/// q, k and v may be columns of wider tensors. offsets and key_offsets [sequences + 1] i32 rise from 0 to
/// rows and to key rows. out [rows, hidden]; lse [rows, heads] (log-sum-exp). out and lse are 0 for a query
/// that sees no key.
void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets,
               const Tensor& key_offsets, AttentionOptions options, const Tensor& out, const Tensor& lse);

/// Assigns dq [rows, hidden], dk and dv [key rows, hidden], which may also be columns of wider tensors.
void attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& offsets, const Tensor& key_offsets, AttentionOptions options,
                        const Tensor& out, const Tensor& lse, const Tensor& dq, const Tensor& dk,
                        const Tensor& dv);

/// Self-attention: qkv [tokens, 3 hidden] holds each token's query, key and value.
void attention(const Tensor& qkv, const Tensor& offsets, AttentionOptions options, const Tensor& out,
               const Tensor& lse);
/// Assigns dqkv [tokens, 3 hidden].
void attention_backward(const Tensor& dout, const Tensor& qkv, const Tensor& offsets,
                        AttentionOptions options, const Tensor& out, const Tensor& lse, const Tensor& dqkv);

/// CUDA implementations, called by the functions above; for heads of at most 256 elements.
namespace cuda {
void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets,
               const Tensor& key_offsets, AttentionOptions options, const Tensor& out, const Tensor& lse);
void attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& offsets, const Tensor& key_offsets, AttentionOptions options,
                        const Tensor& out, const Tensor& lse, const Tensor& dq, const Tensor& dk,
                        const Tensor& dv);
}  // namespace cuda

}  // namespace conclave::kernels

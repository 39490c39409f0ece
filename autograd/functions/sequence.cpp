#include <algorithm>
#include <array>

#include "autograd/functions/accumulator.h"
#include "autograd/functions/assigned.h"
#include "autograd/functions/functions.h"
#include "core/kernels/activation.h"
#include "core/kernels/embedding.h"
#include "core/kernels/lstm.h"
#include "core/kernels/reduction.h"

namespace conclave::functions {
namespace {

// Attention with query, key and value = parts_of(inputs); their gradients are parts_of(the inputs'
// gradients).
template <std::size_t kCount, class Parts>
Tensor attend(Tape& tape, const std::array<Tensor, kCount>& inputs, Parts parts_of, const Tensor& offsets,
              const Tensor& key_offsets, kernels::AttentionOptions options) {
  std::array<const Tensor*, kCount> sources;
  std::ranges::transform(inputs, sources.begin(), [](const Tensor& input) { return &input; });
  const std::array<Tensor, 3> parts = parts_of(inputs);
  const auto& [q, k, v] = parts;
  require(q.rank() == 2, "attention: q {} must be [rows, hidden]", q.shape());
  Tensor out = tape.output(q.shape(), q.dtype(), sources);
  const Tensor lse = tape.empty({q.size(0), options.heads}, q.dtype());
  kernels::attention(q, k, v, offsets, key_offsets, options, out, lse);
  tape.record("attention", sources, {&out}, [=](Tape& tape) {
    const Tensor dout = tape.gradient(out);
    assign_gradients(tape, inputs, [&](const auto& gradients) {
      const auto& [q, k, v] = parts;
      const auto [dq, dk, dv] = parts_of(gradients);
      kernels::attention_backward(dout, q, k, v, offsets, key_offsets, options, out, lse, dq, dk, dv);
    });
  });
  return out;
}

}  // namespace

Tensor attention(Tape& tape, const Tensor& qkv, const Tensor& offsets, kernels::AttentionOptions options) {
  require(qkv.rank() == 2, "attention: qkv {} must be [tokens, 3 hidden]", qkv.shape());
  Tensor out = tape.output({qkv.size(0), qkv.size(1) / 3}, qkv.dtype(), {&qkv});
  const Tensor lse = tape.empty({qkv.size(0), options.heads}, qkv.dtype());
  kernels::attention(qkv, offsets, options, out, lse);
  tape.record("attention", {&qkv}, {&out}, [=](Tape& tape) {
    const Tensor dout = tape.gradient(out);
    assign_gradients(tape, std::array{qkv}, [&](const auto& gradients) {
      kernels::attention_backward(dout, qkv, offsets, options, out, lse, gradients[0]);
    });
  });
  return out;
}

Tensor attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets,
                 const Tensor& key_offsets, kernels::AttentionOptions options) {
  return attend(
      tape, std::array{q, k, v}, [](const auto& inputs) { return inputs; }, offsets, key_offsets, options);
}

Tensor attention(Tape& tape, const Tensor& q, const Tensor& key_value, const Tensor& offsets,
                 const Tensor& key_offsets, kernels::AttentionOptions options) {
  require(q.rank() == 2 && key_value.rank() == 2 && key_value.size(1) == 2 * q.size(1),
          "attention: q {} and key_value {} must be [rows, hidden] and [key rows, 2 hidden]", q.shape(),
          key_value.shape());
  const auto parts_of = [hidden = q.size(1)](const auto& inputs) {
    const Tensor& pairs = inputs[1];
    return std::array{inputs[0], pairs.slice(1, 0, hidden), pairs.slice(1, hidden, 2 * hidden)};
  };
  return attend(tape, std::array{q, key_value}, parts_of, offsets, key_offsets, options);
}

Tensor lstm(Tape& tape, const Tensor& projected, kernels::RowOffsets groups, kernels::RowOffsets sequences,
            const Tensor& recurrent) {
  require(
      projected.rank() == 2 && recurrent.rank() == 3 && !sequences.empty(),
      "lstm: projected {}, recurrent {} and {} offsets of sequences, expected [rows, 4 hidden], [groups, 4 "
      "hidden, hidden] and one more than sequences",
      projected.shape(), recurrent.shape(), sequences.size());
  const Index rows = projected.size(0), hidden = recurrent.size(2),
              count = static_cast<Index>(sequences.size()) - 1;
  const DType dtype = projected.dtype();
  Tensor y = tape.output({rows, hidden}, dtype, {&projected, &recurrent});
  const Tensor cells = tape.empty(y.shape(), dtype), order = tape.empty({count}, DType::i32);
  const Tensor gates = y.slot ? tape.empty(projected.shape(), dtype) : Tensor();
  {
    const ArenaScope scope(tape.arena());
    const Tensor scratch = tape.empty(kernels::lstm_scratch(recurrent, count), recurrent.dtype());
    kernels::lstm(projected, groups, sequences, recurrent, y, cells, gates, order, scratch);
  }
  if (!y.slot) return y;
  const kernels::RowOffsets kept_groups = tape.arena().copy(groups),
                            kept_sequences = tape.arena().copy(sequences);
  const ExampleRows apart = tape.examples_of("lstm", rows, {&recurrent});
  tape.record("lstm", {&projected, &recurrent}, {&y}, [=](Tape& tape) {
    const auto [dprojected, write] = projected.slot ? tape.into(projected) : GradientTarget();
    // If examples are told apart, the gradient of `recurrent` is noted as that of a product with each row's
    // previous output.
    const Tensor given = apart ? tape.empty(y.shape(), dtype) : Tensor(),
                 drecurrent = apart ? Tensor() : accumulator(tape, recurrent);
    const Tensor kept = apart ? tape.empty(projected.shape(), dtype) : Tensor();
    const ArenaScope scope(tape.arena());
    // The kernel assigns the gates' gradients and computes the weight's gradient from them.
    const bool direct = dprojected.defined() && write == Write::assign && !apart;
    const Tensor part = apart ? kept : direct ? dprojected : tape.empty(projected.shape(), dtype);
    kernels::lstm_backward(tape.gradient(y), kept_groups, kept_sequences, recurrent, y, cells, gates, order,
                           part, drecurrent,
                           tape.empty(kernels::lstm_backward_scratch(recurrent, count, rows), dtype));
    if (dprojected.defined() && !direct) kernels::scale(part, 1.0, dprojected, write);
    if (!apart) return;
    for (std::size_t s = 0; s + 1 < kept_sequences.size(); ++s)
      if (const Index begin = kept_sequences[s], end = kept_sequences[s + 1]; begin < end) {
        given.rows(begin, begin + 1).zero();
        given.rows(begin + 1, end).copy_from(y.rows(begin, end - 1));
      }
    apart.gradients->product(apart, kept, given, kept_groups, recurrent, Tensor(), kept);
  });
  return y;
}

Tensor embedding(Tape& tape, const Tensor& ids, const Tensor& table) {
  require(table.rank() == 2, "embedding: table {} must be [vocabulary, hidden]", table.shape());
  Tensor y = tape.output({ids.numel(), table.size(1)}, table.dtype(), {&table});
  kernels::embedding(ids, table, y);
  const ExampleRows apart = tape.examples_of("embedding", ids.numel(), {&table});
  tape.record("embedding", {&table}, {&y}, [=](Tape& tape) {
    if (apart) return apart.gradients->embedding(apart, tape.gradient(y), ids, table, y);
    kernels::embedding_backward(tape.gradient(y), ids, accumulator(tape, table));
  });
  return y;
}

Tensor embedding_bag(Tape& tape, const Tensor& ids, const Tensor& offsets, double scale,
                     const Tensor& table) {
  require(table.rank() == 2, "embedding_bag: table {} must be [vocabulary, columns]", table.shape());
  Tensor y = tape.output({offsets.numel() - 1, table.size(1)}, table.dtype(), {&table});
  kernels::embedding_bag(ids, offsets, scale, table, y);
  tape.record("embedding_bag", {&table}, {&y}, [=](Tape& tape) {
    kernels::embedding_bag_backward(tape.gradient(y), ids, offsets, scale, accumulator(tape, table));
  });
  return y;
}

Tensor even_offsets(Tape& tape, Index segments, Index rows) {
  Tensor offsets = tape.arena().empty_on_host({segments + 1}, DType::i32);
  for (Index i = 0; i <= segments; ++i) offsets.data<std::int32_t>()[i] = static_cast<std::int32_t>(i * rows);
  return offsets;
}

Tensor segment_mean(Tape& tape, const Tensor& x, const Tensor& offsets) {
  Tensor y = tape.output({offsets.numel() - 1, x.size(1)}, x.dtype(), {&x});
  kernels::segment_mean(x, offsets, y);
  tape.record("segment_mean", {&x}, {&y}, [=](Tape& tape) {
    const auto [dx, write] = tape.into(x);
    kernels::segment_mean_backward(tape.gradient(y), offsets, dx, write);
  });
  return y;
}

Tensor segment_max(Tape& tape, const Tensor& x, const Tensor& offsets) {
  Tensor y = tape.output({offsets.numel() - 1, x.size(1)}, x.dtype(), {&x});
  const Tensor winners = tape.empty(y.shape(), DType::i32);
  kernels::segment_max(x, offsets, y, winners);
  tape.record("segment_max", {&x}, {&y}, [=](Tape& tape) {
    kernels::segment_max_backward(tape.gradient(y), winners, accumulator(tape, x));
  });
  return y;
}

Tensor sum(Tape& tape, const Tensor& x) {
  Tensor y = tape.output({1}, x.dtype(), {&x});
  y.fill(kernels::sum(x));
  tape.record("sum", {&x}, {&y}, [=](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    const double up = kernels::sum(dy);  // dy has one element
    const auto [dx, write] = tape.into(x);
    const Tensor ones = tape.empty(x.shape(), x.dtype());
    ones.fill(1.0);
    kernels::scale(ones, up, dx, write);
  });
  return y;
}

}  // namespace conclave::functions

#include "autograd/functions/accumulator.h"
#include "autograd/functions/functions.h"
#include "core/kernels/activation.h"
#include "core/kernels/embedding.h"
#include "core/kernels/lstm.h"
#include "core/kernels/reduction.h"

namespace conclave::functions {

Tensor attention(Tape& tape, const Tensor& qkv, const Tensor& offsets, kernels::AttentionOptions options) {
  require(qkv.rank() == 2, "attention: qkv {} must be [tokens, 3 hidden]", qkv.shape().to_string());
  Tensor out = tape.output({qkv.size(0), qkv.size(1) / 3}, qkv.dtype(), {&qkv});
  const Tensor lse = tape.empty({qkv.size(0), options.heads}, qkv.dtype());
  kernels::attention(qkv, offsets, options, out, lse);
  tape.record("attention", {&qkv}, {&out}, [=](Tape& tape) {
    const auto [dqkv, write] = tape.into(qkv);
    if (write == Write::assign) {
      kernels::attention_backward(tape.gradient(out), qkv, offsets, options, out, lse, dqkv);
    } else {
      const Tensor part = tape.empty(qkv.shape(), qkv.dtype());
      kernels::attention_backward(tape.gradient(out), qkv, offsets, options, out, lse, part);
      kernels::scale(part, 1.0, dqkv, Write::accumulate);
    }
  });
  return out;
}

Tensor lstm(Tape& tape, const Tensor& projected, kernels::RowOffsets groups, kernels::RowOffsets sequences,
            const Tensor& recurrent) {
  require(
      projected.rank() == 2 && recurrent.rank() == 3 && !sequences.empty(),
      "lstm: projected {}, recurrent {} and {} offsets of sequences, expected [rows, 4 hidden], [groups, 4 "
      "hidden, hidden] and one more than sequences",
      projected.shape().to_string(), recurrent.shape().to_string(), sequences.size());
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
  tape.record("lstm", {&projected, &recurrent}, {&y}, [=](Tape& tape) {
    const auto [dprojected, write] = projected.slot ? tape.into(projected) : GradientTarget();
    const Tensor drecurrent = accumulator(tape, recurrent);
    const ArenaScope scope(tape.arena());
    // The kernel assigns the gates' gradients, and the weight's is made of them.
    const bool direct = dprojected.defined() && write == Write::assign;
    const Tensor part = direct ? dprojected : tape.empty(projected.shape(), dtype);
    kernels::lstm_backward(tape.gradient(y), kept_groups, kept_sequences, recurrent, y, cells, gates, order,
                           part, drecurrent,
                           tape.empty(kernels::lstm_backward_scratch(recurrent, count, rows), dtype));
    if (dprojected.defined() && !direct) kernels::scale(part, 1.0, dprojected, Write::accumulate);
  });
  return y;
}

Tensor embedding(Tape& tape, const Tensor& ids, const Tensor& table) {
  require(table.rank() == 2, "embedding: table {} must be [vocabulary, hidden]", table.shape().to_string());
  Tensor y = tape.output({ids.numel(), table.size(1)}, table.dtype(), {&table});
  kernels::embedding(ids, table, y);
  tape.record("embedding", {&table}, {&y}, [=](Tape& tape) {
    kernels::embedding_backward(tape.gradient(y), ids, accumulator(tape, table));
  });
  return y;
}

Tensor embedding_bag(Tape& tape, const Tensor& ids, const Tensor& offsets, double scale,
                     const Tensor& table) {
  require(table.rank() == 2, "embedding_bag: table {} must be [vocabulary, columns]",
          table.shape().to_string());
  Tensor y = tape.output({offsets.numel() - 1, table.size(1)}, table.dtype(), {&table});
  kernels::embedding_bag(ids, offsets, scale, table, y);
  tape.record("embedding_bag", {&table}, {&y}, [=](Tape& tape) {
    kernels::embedding_bag_backward(tape.gradient(y), ids, offsets, scale, accumulator(tape, table));
  });
  return y;
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
    const double up = kernels::sum(dy);  // of one element
    const auto [dx, write] = tape.into(x);
    const Tensor ones = tape.empty(x.shape(), x.dtype());
    ones.fill(1.0);
    kernels::scale(ones, up, dx, write);
  });
  return y;
}

}  // namespace conclave::functions

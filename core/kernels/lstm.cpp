#include "core/kernels/lstm.h"

#include <algorithm>

#include "core/kernels/few_rows.h"
#include "core/kernels/lstm_cell.h"

namespace conclave::kernels {
namespace {

// A panel of a weight has a tile's columns, and is multiplied in pieces of this depth: 16 KiB of it stay in
// the first-level cache while all of a task's sequences are multiplied by them.
constexpr Index kDepth = 256;

// Sequences per task: whole tiles, at least two of them for each time that a weight is read. Maxima of 24, 48
// and 96 take the same time. Fewer sequences leave more tasks to divide among the threads; more sequences
// read the weights less often.
constexpr Index kFewest = 2 * kTileRows, kMost = 8 * kTileRows;

// Rows of drecurrent per product, for any number of threads: BLAS's rounding depends on the size of a block.
constexpr Index kCut = 256;

// Rows of states are a cache line longer than their columns need: if hidden is a power of two, the rows of a
// tile would otherwise fall into one set of the cache.
template <class T>
constexpr Index row_of(Index columns) {
  return columns + kTileColumns<T>;
}

// Elements of the panels of one group's weight: [inner, outputs], with outputs rounded up to whole panels.
template <class T>
constexpr Index panels_of(Index inner, Index outputs) {
  return (outputs + kTileColumns<T> - 1) / kTileColumns<T> * kTileColumns<T> * inner;
}

Index count_of(RowOffsets offsets) { return static_cast<Index>(offsets.size()) - 1; }

void check(const char* operation, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
           const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order) {
  expect_rank(operation, "recurrent", recurrent, 3);
  expect_rank(operation, "y", y, 2);
  const Index rows = y.size(0), hidden = recurrent.size(2);
  expect(operation, "recurrent", recurrent, {recurrent.size(0), 4 * hidden, hidden}, y.dtype());
  expect_offsets(operation, "groups", groups, recurrent.size(0), rows);
  expect_offsets(operation, "sequences", sequences, count_of(sequences), rows);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto next = std::ranges::lower_bound(sequences, groups[g]);  // there is one: both end with `rows`
    require(*next == groups[g], "{}: group {} begins at row {}, within the sequence of rows [{}, {})",
            operation, g, groups[g], *std::prev(next), *next);
  }
  expect(operation, "y", y, {rows, hidden}, y.dtype());
  expect(operation, "cells", cells, {rows, hidden}, y.dtype());
  if (gates.defined()) expect(operation, "gates", gates, {rows, 4 * hidden}, y.dtype());
  expect(operation, "order", order, {count_of(sequences)}, DType::i32);
}

// The sequences of a task by number, the longest first. `first` is the position of the task's first sequence
// in the order of all sequences.
struct Task {
  Index group, first;
  std::span<const std::int32_t> order;
  RowOffsets sequences;
  Index count() const { return static_cast<Index>(order.size()); }
  Index begin(Index i) const { return sequences[number(i)]; }
  Index length(Index i) const { return sequences[number(i) + 1] - begin(i); }
  std::size_t number(Index i) const { return static_cast<std::size_t>(order[static_cast<std::size_t>(i)]); }
};

struct Tasks {
  RowOffsets groups, sequences;
  std::span<std::int32_t> order;
  Index most;  // sequences per task

  Tasks(RowOffsets groups, RowOffsets sequences, const Tensor& order)
      : groups(groups), sequences(sequences), order(order.span<std::int32_t>()) {
    const Index share = count_of(sequences) / (3 * omp_get_max_threads());  // three tasks a thread
    most = std::clamp((share + kTileRows - 1) / kTileRows * kTileRows, kFewest, kMost);
  }
  // Where the sequences of `group` begin, which is where those of the group before end.
  Index first(Index group) const {
    return first_sequence(sequences, groups[static_cast<std::size_t>(group)]);
  }
  Index of_group(Index group) const { return (first(group + 1) - first(group) + most - 1) / most; }
  Index count() const {
    Index total = 0;
    for (Index g = 0; g < count_of(groups); ++g) total += of_group(g);
    return total;
  }
  Task task(Index number) const {
    for (Index g = 0;; ++g) {
      const Index tasks = of_group(g);
      if (number < tasks) {
        const Index begin = first(g) + number * most, end = std::min(begin + most, first(g + 1));
        return {g, begin,
                order.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
                sequences};
      }
      number -= tasks;
    }
  }
};

// Calls each(group, first, columns) for every panel of the weight [inner, outputs] of every group that has
// rows. A panel is `columns` outputs from `first` on.
template <class T, class Each>
void for_panels(RowOffsets groups, Index outputs, Index inner, Each each) {
  const Index count = count_of(groups);
#pragma omp parallel for collapse(2) schedule(static) if (count * outputs * inner > kParallelElements)
  for (Index g = 0; g < count; ++g)
    for (Index first = 0; first < outputs; first += kTileColumns<T>)
      if (groups[static_cast<std::size_t>(g)] < groups[static_cast<std::size_t>(g) + 1])
        each(g, first, std::min(kTileColumns<T>, outputs - first));
}

// to [rows, outputs] = from [rows, inner] panels [inner, outputs]; the last vector is written whole.
template <class T>
void multiply_panels(Index rows, Index outputs, Index inner, const T* from, const T* panels, T* to) {
  for (Index first = 0; first < outputs; first += kTileColumns<T>) {
    const Index columns = std::min(kTileColumns<T>, outputs - first);
    const Index whole = (columns + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    for (Index depth = 0; depth < inner; depth += kDepth)
      tile_product<T>(rows, whole, std::min(kDepth, inner - depth), from + depth, row_of<T>(inner), 1,
                      panels + first * inner + depth * kTileColumns<T>, kTileColumns<T>, to + first,
                      row_of<T>(outputs), depth > 0);
  }
}

// One step of one sequence. The gates' inputs are projected + z; if cells_before is null, the previous cells
// are zero.
template <class T>
void step_forward(Index hidden, const T* projected, const T* z, const T* cells_before, T* gates, T* cells,
                  T* y, T* h) {
#pragma omp simd
  for (Index u = 0; u < hidden; ++u) {
    const T before = cells_before ? cells_before[u] : T(0);
    T cell, output;
    const auto [i, f, g, o] = lstm_cell<T>(
        {projected[u] + z[u], projected[hidden + u] + z[hidden + u],
         projected[2 * hidden + u] + z[2 * hidden + u], projected[3 * hidden + u] + z[3 * hidden + u]},
        before, cell, output);
    gates[u] = i;
    gates[hidden + u] = f;
    gates[2 * hidden + u] = g;
    gates[3 * hidden + u] = o;
    cells[u] = cell;
    y[u] = h[u] = output;
  }
}

template <class T>
constexpr Index forward_states(Index hidden) {
  return row_of<T>(hidden) + row_of<T>(4 * hidden);  // per sequence: h, and its part of the gates' inputs
}

template <class T>
void forward_task(const Task& task, Index hidden, const T* projected, const T* panels, T* states, T* y,
                  T* cells, T* gates) {
  T *h = states, *z = h + task.count() * row_of<T>(hidden);
  std::fill_n(states, task.count() * forward_states<T>(hidden), T(0));
  Index active = task.count();
  for (Index t = 0;; ++t) {
    while (active > 0 && task.length(active - 1) <= t) --active;
    if (active == 0) return;
    if (t > 0) multiply_panels(active, 4 * hidden, hidden, h, panels, z);
    for (Index i = 0; i < active; ++i) {
      const Index row = task.begin(i) + t, at = row * hidden;
      T* z_of = z + i * row_of<T>(4 * hidden);
      step_forward(hidden, projected + 4 * at, z_of, t > 0 ? cells + at - hidden : nullptr,
                   gates ? gates + 4 * at : z_of, cells + at, y + at, h + i * row_of<T>(hidden));
    }
  }
}

// The derivative of step_forward. dh and dcells come from step t + 1; dcells is replaced by its value for
// step t - 1. The gates' gradients are written to both dprojected and dgates.
template <class T>
void step_backward(Index hidden, const T* dy, const T* dh, const T* gates, const T* cells,
                   const T* cells_before, T* dcells, T* dprojected, T* dgates) {
#pragma omp simd
  for (Index u = 0; u < hidden; ++u) {
    const T before = cells_before ? cells_before[u] : T(0);
    const auto [i, f, g, o] =
        lstm_cell_backward<T>({gates[u], gates[hidden + u], gates[2 * hidden + u], gates[3 * hidden + u]},
                              cells[u], before, dy[u] + dh[u], dcells[u]);
    dprojected[u] = dgates[u] = i;
    dprojected[hidden + u] = dgates[hidden + u] = f;
    dprojected[2 * hidden + u] = dgates[2 * hidden + u] = g;
    dprojected[3 * hidden + u] = dgates[3 * hidden + u] = o;
  }
}

template <class T>
constexpr Index backward_states(Index hidden) {
  return row_of<T>(4 * hidden) + 2 * row_of<T>(hidden);  // per sequence: gradients of gates, h, and cells
}

template <class T>
void backward_task(const Task& task, Index hidden, const T* dy, const T* panels, T* states, const T* cells,
                   const T* gates, T* dprojected) {
  T *dgates = states, *dh = dgates + task.count() * row_of<T>(4 * hidden),
    *dcells = dh + task.count() * row_of<T>(hidden);
  std::fill_n(states, task.count() * backward_states<T>(hidden), T(0));
  Index active = 0;
  for (Index t = task.length(0) - 1; t >= 0; --t) {
    multiply_panels(active, hidden, 4 * hidden, dgates, panels, dh);  // for sequences with a step t + 1
    while (active < task.count() && task.length(active) > t) ++active;
    for (Index i = 0; i < active; ++i) {
      const Index at = (task.begin(i) + t) * hidden;
      step_backward(hidden, dy + at, dh + i * row_of<T>(hidden), gates + 4 * at, cells + at,
                    t > 0 ? cells + at - hidden : nullptr, dcells + i * row_of<T>(hidden),
                    dprojected + 4 * at, dgates + i * row_of<T>(4 * hidden));
    }
  }
}

}  // namespace

Shape lstm_scratch(const Tensor& recurrent, Index sequences) {
  const Index hidden = recurrent.size(2);
  Shape shape{0};
  for_floating(recurrent.dtype(), "lstm", [&]<class T>(T) {
    shape[0] = recurrent.size(0) * panels_of<T>(hidden, 4 * hidden) + sequences * forward_states<T>(hidden);
  });
  return shape;
}

Shape lstm_backward_scratch(const Tensor& recurrent, Index sequences, Index rows) {
  const Index hidden = recurrent.size(2);
  Shape shape{0};
  for_floating(recurrent.dtype(), "lstm", [&]<class T>(T) {
    shape[0] = recurrent.size(0) * panels_of<T>(4 * hidden, hidden) + sequences * backward_states<T>(hidden) +
               rows * hidden;
  });
  return shape;
}

void lstm(const Tensor& projected, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
          const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order,
          const Tensor& scratch) {
  check("lstm", groups, sequences, recurrent, y, cells, gates, order);
  expect("lstm", "projected", projected, {y.size(0), 4 * y.size(1)}, y.dtype());
  expect("lstm", "scratch", scratch, lstm_scratch(recurrent, count_of(sequences)), y.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("lstm", projected, recurrent, y, cells, gates, order, scratch))
      return cuda::lstm(projected, groups, sequences, recurrent, y, cells, gates, order);
  order_sequences(groups, sequences, order.span<std::int32_t>());
  const Tasks tasks(groups, sequences, order);
  for_floating(y.dtype(), "lstm", [&]<class T>(T) {
    const Index hidden = y.size(1), count = tasks.count(), group_panels = panels_of<T>(hidden, 4 * hidden);
    const T *px = projected.data<T>(), *pw = recurrent.data<T>();
    T *py = y.data<T>(), *pc = cells.data<T>(), *pg = gates.defined() ? gates.data<T>() : nullptr;
    T *panels = scratch.data<T>(), *states = panels + recurrent.size(0) * group_panels;
    for_panels<T>(groups, 4 * hidden, hidden, [&](Index group, Index first, Index columns) {
      few_rows::transpose_rows(columns, hidden, pw + (group * 4 * hidden + first) * hidden, hidden,
                               panels + group * group_panels + first * hidden, kTileColumns<T>);
    });
#pragma omp parallel for schedule(dynamic) if (count > 1)
    for (Index number = 0; number < count; ++number) {
      const Task task = tasks.task(number);
      forward_task(task, hidden, px, panels + task.group * group_panels,
                   states + task.first * forward_states<T>(hidden), py, pc, pg);
    }
  });
}

void lstm_backward(const Tensor& dy, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
                   const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order,
                   const Tensor& dprojected, const Tensor& drecurrent, const Tensor& scratch) {
  const char* operation = "lstm backward";
  check(operation, groups, sequences, recurrent, y, cells, gates, order);
  const Index rows = y.size(0), gate_rows = recurrent.size(1);
  expect(operation, "dy", dy, y.shape(), y.dtype());
  expect(operation, "gates", gates, {rows, gate_rows}, y.dtype());
  expect(operation, "dprojected", dprojected, {rows, gate_rows}, y.dtype());
  if (drecurrent.defined()) expect(operation, "drecurrent", drecurrent, recurrent.shape(), y.dtype());
  expect(operation, "scratch", scratch, lstm_backward_scratch(recurrent, count_of(sequences), rows),
         y.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, dy, recurrent, y, cells, gates, order, dprojected, drecurrent, scratch))
      return cuda::lstm_backward(dy, groups, sequences, recurrent, y, cells, gates, dprojected, drecurrent);
  const Tasks tasks(groups, sequences, order);
  for_floating(y.dtype(), operation, [&]<class T>(T) {
    const Index hidden = y.size(1), count = tasks.count(), group_panels = panels_of<T>(4 * hidden, hidden);
    const T *pup = dy.data<T>(), *pw = recurrent.data<T>(), *py = y.data<T>(), *pc = cells.data<T>(),
            *pg = gates.data<T>();
    T *pdz = dprojected.data<T>(), *panels = scratch.data<T>(),
      *states = panels + recurrent.size(0) * group_panels;
    for_panels<T>(groups, hidden, 4 * hidden, [&](Index group, Index first, Index columns) {
      const T* from = pw + group * 4 * hidden * hidden + first;
      T* to = panels + group * group_panels + first * 4 * hidden;
      for (Index row = 0; row < 4 * hidden; ++row, from += hidden, to += kTileColumns<T>)
        std::fill(std::copy_n(from, columns, to), to + kTileColumns<T>, T(0));
    });
#pragma omp parallel for schedule(dynamic) if (count > 1)
    for (Index number = 0; number < count; ++number) {
      const Task task = tasks.task(number);
      backward_task(task, hidden, pup, panels + task.group * group_panels,
                    states + task.first * backward_states<T>(hidden), pc, pg, pdz);
    }
    if (!drecurrent.defined() || hidden == 0) return;
    // h_{t-1} for each row: the row before it, zeros for a sequence's first row.
    const Tensor previous =
        scratch.rows(scratch.numel() - rows * hidden, scratch.numel()).reshape({rows, hidden});
    T* pp = previous.data<T>();
#pragma omp parallel for schedule(static) if (rows * hidden > kParallelElements)
    for (Index s = 0; s < count_of(sequences); ++s) {
      const Index begin = sequences[static_cast<std::size_t>(s)],
                  end = sequences[static_cast<std::size_t>(s) + 1];
      if (begin == end) continue;
      std::fill_n(pp + begin * hidden, hidden, T(0));
      std::copy(py + begin * hidden, py + (end - 1) * hidden, pp + (begin + 1) * hidden);
    }
    const Tensor sums = drecurrent.reshape({recurrent.size(0) * gate_rows, hidden});
    const Index cuts = (gate_rows + kCut - 1) / kCut;
#pragma omp parallel for schedule(dynamic) collapse(2) if (rows * gate_rows > kParallelElements)
    for (Index group = 0; group < count_of(groups); ++group) {
      for (Index cut = 0; cut < cuts; ++cut) {
        const Index begin = groups[static_cast<std::size_t>(group)],
                    end = groups[static_cast<std::size_t>(group) + 1];
        const Index first = cut * kCut, last = std::min(first + kCut, gate_rows);
        if (begin < end)
          matmul(dprojected.rows(begin, end).slice(1, first, last), Transpose::yes, previous.rows(begin, end),
                 Transpose::no, sums.rows(group * gate_rows + first, group * gate_rows + last),
                 Write::accumulate);
      }
    }
  });
}

}  // namespace conclave::kernels

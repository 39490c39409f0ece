#include "core/kernels/lstm.h"

#include <algorithm>
#include <numeric>

#include "core/kernels/few_rows.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels {
namespace {

// Hidden units at a time: a panel has one column for each. Panels are multiplied this deep at a time: 16 KiB
// of one stay in the first-level cache while all of a task's sequences pass.
template <class T>
constexpr Index kUnits = kTileColumns<T>;
constexpr Index kDepth = 256;

// Sequences of one task: whole tiles; fewer than 12 would read the weights faster than the second-level cache
// gives them, of more the block's gates would not fit the first.
constexpr Index kFewest = 2 * kTileRows, kMost = 8 * kTileRows;

// Rows of drecurrent per product, whatever the number of threads: BLAS rounds by the size of a block.
constexpr Index kCut = 256;

// States' rows lie a cache line further apart than their columns need: the rows of a tile would otherwise
// meet in one set of the cache where hidden is a power of two.
template <class T>
constexpr Index row_of(Index columns) {
  return columns + 64 / static_cast<Index>(sizeof(T));
}

template <class T>
struct Sizes {
  explicit Sizes(const Tensor& recurrent)
      : hidden(recurrent.size(2)),
        blocks((hidden + kUnits<T> - 1) / kUnits<T>),
        group(4 * hidden * blocks * kUnits<T>),
        panels(recurrent.size(0) * group),
        state(row_of<T>(hidden)),
        gradient(row_of<T>(4 * hidden)) {}
  Index hidden, blocks;
  Index group, panels;    // elements of one group's panels, and of all
  Index state, gradient;  // between the rows of h, and of the gradients of the gates
  Index forward_states() const { return 2 * state; }              // of one sequence: h now and before
  Index backward_states() const { return 2 * gradient + state; }  // the gates' and the cell's gradients
};

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

// Sequences that a task takes: `order` names them, the longest first. `first` is the position of the first
// one among all.
struct Task {
  Index group, first;
  std::span<const std::int32_t> order;
  RowOffsets sequences;
  Index count() const { return static_cast<Index>(order.size()); }
  Index begin(Index i) const {
    return sequences[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
  }
  Index length(Index i) const {
    return sequences[static_cast<std::size_t>(order[static_cast<std::size_t>(i)]) + 1] - begin(i);
  }
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
  // Position of the first sequence of `group`, and of the first behind its last that has rows.
  Index first(Index group) const {
    const Index row = groups[static_cast<std::size_t>(group)];
    return std::ranges::lower_bound(sequences, row) - sequences.begin();
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
  // Within each group, by falling length; of equally long ones the first comes first.
  void sort() const {
    std::iota(order.begin(), order.end(), 0);
    const auto length = [this](std::int32_t s) {
      return sequences[static_cast<std::size_t>(s) + 1] - sequences[static_cast<std::size_t>(s)];
    };
    for (Index g = 0; g < count_of(groups); ++g)
      std::sort(order.begin() + first(g), order.begin() + first(g + 1), [&](std::int32_t a, std::int32_t b) {
        return length(a) != length(b) ? length(a) > length(b) : a < b;
      });
  }
};

// Calls each(group, block) for every block of units of every group that has rows.
template <class Each>
void for_panels(RowOffsets groups, Index blocks, Each each) {
#pragma omp parallel for collapse(2) schedule(static) if (count_of(groups) * blocks > 1)
  for (Index g = 0; g < count_of(groups); ++g)
    for (Index block = 0; block < blocks; ++block)
      if (groups[static_cast<std::size_t>(g)] < groups[static_cast<std::size_t>(g) + 1]) each(g, block);
}

// Columns of a panel that are computed: `units`, and what fills up the last vector.
template <class T>
Index whole_vectors(Index units) {
  return (units + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// to [rows, units] = states [rows, inner] panel [inner, units]
template <class T>
void multiply_panel(Index rows, Index units, Index inner, const T* states, Index state_row, const T* panel,
                    T* to, Index to_row) {
  for (Index first = 0; first < inner; first += kDepth)
    tile_product<T>(rows, whole_vectors<T>(units), std::min(kDepth, inner - first), states + first, state_row,
                    1, panel + first * kUnits<T>, kUnits<T>, to, to_row, first > 0);
}

// One step of `units` units of one sequence. The gates' inputs are projected (`hidden` between the gates)
// plus z (kUnits between them); the gates go to `gates`, `gate` between them.
template <class T>
[[gnu::always_inline]] inline void step_forward(Index units, const T* projected, Index hidden, const T* z,
                                                const T* cells_before, T* gates, Index gate, T* cells, T* y,
                                                T* state) {
#pragma omp simd
  for (Index u = 0; u < units; ++u) {
    const T i = vector_sigmoid(projected[u] + z[u]);
    const T f = vector_sigmoid(projected[hidden + u] + z[kUnits<T> + u]);
    const T g = vector_tanh(projected[2 * hidden + u] + z[2 * kUnits<T> + u]);
    const T o = vector_sigmoid(projected[3 * hidden + u] + z[3 * kUnits<T> + u]);
    const T c = f * cells_before[u] + i * g, h = o * vector_tanh(c);
    gates[u] = i;
    gates[gate + u] = f;
    gates[2 * gate + u] = g;
    gates[3 * gate + u] = o;
    cells[u] = c;
    y[u] = h;
    state[u] = h;
  }
}

template <class T>
void forward_task(const Task& task, const Sizes<T>& sizes, const T* projected, const T* panels, T* states,
                  T* y, T* cells, T* gates) {
  const Index hidden = sizes.hidden;
  alignas(64) T z[kMost * 4 * kUnits<T>];
  constexpr Index z_row = 4 * kUnits<T>;
  constexpr T kNothing[kUnits<T>] = {};
  T *before = states, *now = states + task.count() * sizes.state;
  Index active = task.count();
  for (Index t = 0;; ++t) {
    while (active > 0 && task.length(active - 1) <= t) --active;
    if (active == 0) return;
    for (Index block = 0; block < sizes.blocks; ++block) {
      const Index first = block * kUnits<T>, units = std::min(kUnits<T>, hidden - first);
      if (t == 0) std::fill_n(z, active * z_row, T(0));
      for (Index gate = 0; gate < 4 && t > 0; ++gate)
        multiply_panel(active, units, hidden, before, sizes.state,
                       panels + (block * 4 + gate) * hidden * kUnits<T>, z + gate * kUnits<T>, z_row);
      for (Index i = 0; i < active; ++i) {
        const Index row = task.begin(i) + t, at = row * hidden + first;
        T* z_of = z + i * z_row;
        T* to = gates ? gates + 4 * row * hidden + first : z_of;  // over what has been read, for nobody
        step_forward(units, projected + 4 * row * hidden + first, hidden, z_of,
                     t > 0 ? cells + at - hidden : kNothing, to, gates ? hidden : kUnits<T>, cells + at,
                     y + at, now + i * sizes.state + first);
      }
    }
    std::swap(before, now);
  }
}

// The derivative of step_forward: dh is what comes from step t + 1, dcells what comes from its cells, which
// is replaced by what goes to step t - 1. The gates' gradients are written twice.
template <class T>
[[gnu::always_inline]] inline void step_backward(Index units, Index hidden, const T* dy, const T* dh,
                                                 const T* gates, const T* cells, const T* cells_before,
                                                 T* dcells, T* dprojected, T* dgates) {
#pragma omp simd
  for (Index u = 0; u < units; ++u) {
    const T i = gates[u], f = gates[hidden + u], g = gates[2 * hidden + u], o = gates[3 * hidden + u];
    const T up = dy[u] + dh[u], squashed = vector_tanh(cells[u]);
    const T dc = dcells[u] + up * o * (T(1) - squashed * squashed);
    const T di = dc * g * i * (T(1) - i), df = dc * cells_before[u] * f * (T(1) - f);
    const T dg = dc * i * (T(1) - g * g), d_o = up * squashed * o * (T(1) - o);
    dprojected[u] = dgates[u] = di;
    dprojected[hidden + u] = dgates[hidden + u] = df;
    dprojected[2 * hidden + u] = dgates[2 * hidden + u] = dg;
    dprojected[3 * hidden + u] = dgates[3 * hidden + u] = d_o;
    dcells[u] = dc * f;
  }
}

template <class T>
void backward_task(const Task& task, const Sizes<T>& sizes, const T* dy, const T* panels, T* states,
                   const T* cells, const T* gates, T* dprojected) {
  const Index hidden = sizes.hidden;
  alignas(64) T dh[kMost * kUnits<T>];
  constexpr T kNothing[kUnits<T>] = {};
  T *after = states, *now = after + task.count() * sizes.gradient,
    *dcells = now + task.count() * sizes.gradient;
  std::fill_n(dcells, task.count() * sizes.state, T(0));
  Index active = 0;
  for (Index t = task.length(0) - 1; t >= 0; --t) {
    const Index later = active;  // sequences with a step t + 1
    while (active < task.count() && task.length(active) > t) ++active;
    for (Index block = 0; block < sizes.blocks; ++block) {
      const Index first = block * kUnits<T>, units = std::min(kUnits<T>, hidden - first);
      multiply_panel(later, units, 4 * hidden, after, sizes.gradient, panels + block * 4 * hidden * kUnits<T>,
                     dh, kUnits<T>);
      std::fill(dh + later * kUnits<T>, dh + active * kUnits<T>, T(0));
      for (Index i = 0; i < active; ++i) {
        const Index row = task.begin(i) + t, at = row * hidden + first, at_gates = 4 * row * hidden + first;
        step_backward(units, hidden, dy + at, dh + i * kUnits<T>, gates + at_gates, cells + at,
                      t > 0 ? cells + at - hidden : kNothing, dcells + i * sizes.state + first,
                      dprojected + at_gates, now + i * sizes.gradient + first);
      }
    }
    std::swap(after, now);
  }
}

}  // namespace

Shape lstm_scratch(const Tensor& recurrent, Index sequences) {
  Shape shape{0};
  for_floating(recurrent.dtype(), "lstm", [&]<class T>(T) {
    const Sizes<T> sizes(recurrent);
    shape[0] = sizes.panels + sequences * sizes.forward_states();
  });
  return shape;
}

Shape lstm_backward_scratch(const Tensor& recurrent, Index sequences, Index rows) {
  Shape shape{0};
  for_floating(recurrent.dtype(), "lstm", [&]<class T>(T) {
    const Sizes<T> sizes(recurrent);
    shape[0] = sizes.panels + sequences * sizes.backward_states() + rows * sizes.hidden;
  });
  return shape;
}

void lstm(const Tensor& projected, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
          const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order,
          const Tensor& scratch) {
  check("lstm", groups, sequences, recurrent, y, cells, gates, order);
  expect("lstm", "projected", projected, {y.size(0), 4 * y.size(1)}, y.dtype());
  expect("lstm", "scratch", scratch, lstm_scratch(recurrent, count_of(sequences)), y.dtype());
  const Tasks tasks(groups, sequences, order);
  tasks.sort();
  for_floating(y.dtype(), "lstm", [&]<class T>(T) {
    const Sizes<T> sizes(recurrent);
    const Index hidden = sizes.hidden, count = tasks.count();
    const T *px = projected.data<T>(), *pw = recurrent.data<T>();
    T *py = y.data<T>(), *pc = cells.data<T>(), *pg = gates.defined() ? gates.data<T>() : nullptr;
    T *panels = scratch.data<T>(), *states = panels + sizes.panels;
    // For each block of units and each gate, [hidden, units]: the rows of the weight that make them, turned.
    for_panels(groups, sizes.blocks, [&](Index group, Index block) {
      const Index first = block * kUnits<T>, units = std::min(kUnits<T>, hidden - first);
      for (Index gate = 0; gate < 4; ++gate)
        few_rows::transpose_rows(
            units, hidden, pw + (group * 4 * hidden + gate * hidden + first) * hidden, hidden,
            panels + group * sizes.group + (block * 4 + gate) * hidden * kUnits<T>, kUnits<T>);
    });
#pragma omp parallel for schedule(dynamic) if (count > 1)
    for (Index number = 0; number < count; ++number) {
      const Task task = tasks.task(number);
      forward_task(task, sizes, px, panels + task.group * sizes.group,
                   states + task.first * sizes.forward_states(), py, pc, pg);
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
  const Tasks tasks(groups, sequences, order);
  for_floating(y.dtype(), operation, [&]<class T>(T) {
    const Sizes<T> sizes(recurrent);
    const Index hidden = sizes.hidden, count = tasks.count();
    const T *pup = dy.data<T>(), *pw = recurrent.data<T>(), *py = y.data<T>(), *pc = cells.data<T>(),
            *pg = gates.data<T>();
    T *pdz = dprojected.data<T>(), *panels = scratch.data<T>(), *states = panels + sizes.panels;
    // For each block of units, [4 hidden, units]: the columns of the weight that read them.
    for_panels(groups, sizes.blocks, [&](Index group, Index block) {
      const Index first = block * kUnits<T>, units = std::min(kUnits<T>, hidden - first);
      for (Index row = 0; row < 4 * hidden; ++row) {
        T* to = panels + group * sizes.group + (block * 4 * hidden + row) * kUnits<T>;
        std::fill(std::copy_n(pw + (group * 4 * hidden + row) * hidden + first, units, to), to + kUnits<T>,
                  T(0));
      }
    });
#pragma omp parallel for schedule(dynamic) if (count > 1)
    for (Index number = 0; number < count; ++number) {
      const Task task = tasks.task(number);
      backward_task(task, sizes, pup, panels + task.group * sizes.group,
                    states + task.first * sizes.backward_states(), pc, pg, pdz);
    }
    if (!drecurrent.defined() || hidden == 0) return;
    // Each row's h_{t-1}: the row before, nothing at a sequence's first.
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

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "core/cuda/memory.h"
#include "core/cuda/scratch.h"
#include "core/kernels/cuda_column_sums.h"
#include "core/kernels/cuda_kernel.h"
#include "core/kernels/reduction.h"

namespace conclave::kernels::cuda {
namespace {

using conclave::cuda::download;

// The most partial sums, one per block, which the host adds up.
constexpr Index kParts = 512;
// The fewest elements for each thread, so that little is left to the host.
constexpr Index kThreadElements = 16;

struct Value {
  template <class T>
  __device__ double operator()(T value) const {
    return static_cast<double>(value);
  }
};
struct Square {
  template <class T>
  __device__ double operator()(T value) const {
    return static_cast<double>(value) * static_cast<double>(value);
  }
};
template <class T>
constexpr T kLargest = std::numeric_limits<T>::max();  // device code cannot call max()

struct NotFinite {
  template <class T>
  __device__ double operator()(T value) const {
    return std::fabs(value) <= kLargest<T> ? 0.0 : 1.0;
  }
};

template <class T, int kWidth, class Term>
__global__ void __launch_bounds__(kBlock) reduce_kernel(const T* x, Index total, Term term, double* partial) {
  const Index step = Index{gridDim.x} * kBlock, first = Index{blockIdx.x} * kBlock + threadIdx.x;
  const Index packs = total / kWidth;
  double sum = 0;
  for (Index pack = first; pack < packs; pack += step) {
    const Pack<T, kWidth> value = load<kWidth>(x + pack * kWidth);
    for (int j = 0; j < kWidth; ++j) sum += term(value.at[j]);
  }
  for (Index i = packs * kWidth + first; i < total; i += step) sum += term(x[i]);
  sum = team_sum<kBlock>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// The sum of term(element), on the host, which waits for it.
template <class Term>
double reduce(const Tensor& x, Term term) {
  const Index total = x.numel();
  if (total == 0) return 0;
  return for_floating(x.dtype(), "sum", [&]<class T>(T) {
    const T* values = x.span<T>().data();  // throws if there are gaps
    const Index parts = std::min(kParts, (total + kBlock * kThreadElements - 1) / (kBlock * kThreadElements));
    conclave::cuda::Scratch scratch;
    double* partial = scratch.array<double>(parts);
    const LaunchShape shape{.grid = dim3(static_cast<unsigned>(parts)), .block = dim3(kBlock)};
    if (aligned({x.raw()}))
      launch("sum", reduce_kernel<T, kPackWidth<T>, Term>, shape, values, total, term, partial);
    else
      launch("sum", reduce_kernel<T, 1, Term>, shape, values, total, term, partial);
    std::array<double, kParts> on_host;
    download("sum", partial, static_cast<std::size_t>(parts) * sizeof(double), on_host.data());
    double sum = 0;
    for (Index part = 0; part < parts; ++part) sum += on_host[static_cast<std::size_t>(part)];
    return sum;
  });
}

// Partial sums of the rows' squares: for each row of x [rows, columns], one for each block of the grid's
// first dimension.
template <class T, int kWidth>
__global__ void __launch_bounds__(kBlock)
    row_squares_kernel(const T* x, Index rows, Index columns, double* partial) {
  const Index step = Index{gridDim.x} * kBlock * kWidth,
              first = (Index{blockIdx.x} * kBlock + threadIdx.x) * kWidth;
  for (Index row = blockIdx.y; row < rows; row += gridDim.y) {
    double sum = 0;
    for (Index i = first; i < columns; i += step) {
      const Pack<T, kWidth> value = load<kWidth>(x + row * columns + i);
      for (int j = 0; j < kWidth; ++j) sum += Square()(value.at[j]);
    }
    sum = team_sum<kBlock>(sum);
    if (threadIdx.x == 0) partial[row * gridDim.x + blockIdx.x] = sum;
  }
}

struct AddPartials {
  Index parts;
  const double* partial;
  double* sums;
  template <int>
  __device__ void at(Index row) const {
    double sum = 0;
    for (Index part = 0; part < parts; ++part) sum += partial[row * parts + part];
    sums[row] = sum;
  }
};

// One pack of columns of one segment.
template <class T, int kWidth>
struct Segment {
  Index columns;
  const std::int32_t* offsets;
  struct Place {
    Index begin, end;  // rows
    Index column, to;  // the pack's first element within a row, and in the reduced tensor
  };
  __device__ Place place(Index item) const {
    const Index packs = columns / kWidth, s = item / packs, column = item % packs * kWidth;
    return {offsets[s], offsets[s + 1], column, s * columns + column};
  }
};

template <class T>
__device__ T inverse_of(Index count) {
  return T(1) / static_cast<T>(count > 1 ? count : 1);
}

template <class T, int kWidth>
struct SegmentMean {
  Segment<T, kWidth> segment;
  const T* x;
  T* y;
  template <int>
  __device__ void at(Index item) const {
    const auto [begin, end, column, to] = segment.place(item);
    Pack<T, kWidth> sum{};
    for (Index row = begin; row < end; ++row) {
      const Pack<T, kWidth> value = load<kWidth>(x + row * segment.columns + column);
      for (int j = 0; j < kWidth; ++j) sum.at[j] += value.at[j];
    }
    for (int j = 0; j < kWidth; ++j) sum.at[j] *= inverse_of<T>(end - begin);
    store<kWidth>(y + to, sum);
  }
};

template <class T, int kWidth>
struct SegmentMeanBackward {
  Segment<T, kWidth> segment;
  const T* dy;
  T* dx;
  Write mode;
  template <int>
  __device__ void at(Index item) const {
    const auto [begin, end, column, to] = segment.place(item);
    Pack<T, kWidth> value = load<kWidth>(dy + to);
    for (int j = 0; j < kWidth; ++j) value.at[j] *= inverse_of<T>(end - begin);
    for (Index row = begin; row < end; ++row)
      write_pack<kWidth>(dx + row * segment.columns + column, value, mode);
  }
};

template <class T, int kWidth>
struct SegmentMax {
  Segment<T, kWidth> segment;
  const T* x;
  T* y;
  std::int32_t* winners;
  template <int>
  __device__ void at(Index item) const {
    const auto [begin, end, column, to] = segment.place(item);
    Pack<T, kWidth> best{};
    Pack<std::int32_t, kWidth> winner;
    for (int j = 0; j < kWidth; ++j) winner.at[j] = -1;
    for (Index row = begin; row < end; ++row) {
      const Pack<T, kWidth> value = load<kWidth>(x + row * segment.columns + column);
      for (int j = 0; j < kWidth; ++j)
        if (winner.at[j] < 0 || value.at[j] > best.at[j] || isnan(value.at[j])) {
          best.at[j] = value.at[j];
          winner.at[j] = static_cast<std::int32_t>(row);
        }
    }
    store<kWidth>(y + to, best);
    store<kWidth>(winners + to, winner);
  }
};

// Segments do not share rows, so no two threads add to one element.
template <class T>
struct SegmentMaxBackward {
  Index columns;
  const T* dy;
  const std::int32_t* winners;
  T* dx;
  template <int>
  __device__ void at(Index i) const {
    if (winners[i] >= 0) dx[winners[i] * columns + i % columns] += dy[i];
  }
};

template <class T>
struct Column {
  Index columns;
  const T* x;
  __device__ void operator()(Index row, Index column, T (&sums)[1]) const {
    sums[0] += x[row * columns + column];
  }
};

}  // namespace

double sum(const Tensor& x) { return reduce(x, Value{}); }
double sum_of_squares(const Tensor& x) { return reduce(x, Square{}); }
bool all_finite(const Tensor& x) { return reduce(x, NotFinite{}) == 0.0; }

void add_row_squares(std::span<const RowSquares> all, double divisor) {
  constexpr const char* kOperation = "row_squares";
  constexpr Index kRowParts = 64;            // blocks of one row at most
  thread_local std::vector<double> on_host;  // kept, because a training step allocates nothing
  std::size_t total = 0;
  for (const RowSquares& one : all) total += one.squares.size();
  if (total == 0) return;
  on_host.resize(total);
  conclave::cuda::Scratch scratch;
  double* const sums = scratch.array<double>(static_cast<Index>(total));
  double* next = sums;
  for (const auto& [x, squares] : all) {
    const Index rows = x.size(0), columns = rows == 0 ? 0 : x.numel() / rows;
    if (rows == 0) continue;
    for_floating(x.dtype(), kOperation, [&, &x = x]<class T>(T) {
      constexpr Index kPart = kBlock * kThreadElements;
      const Index parts = std::clamp<Index>((columns + kPart - 1) / kPart, 1, kRowParts);
      conclave::cuda::Scratch of_one;
      double* const partial = of_one.array<double>(rows * parts);
      const LaunchShape shape{
          .grid = dim3(static_cast<unsigned>(parts), static_cast<unsigned>(std::min(rows, kMaxBlocks))),
          .block = dim3(kBlock)};
      for_width<T>(columns, {x.raw()}, [&]<int kWidth>() {
        launch(kOperation, row_squares_kernel<T, kWidth>, shape, x.data<T>(), rows, columns, partial);
      });
      for_items(kOperation, rows, AddPartials{parts, partial, next});
    });
    next += rows;
  }
  conclave::cuda::download(kOperation, sums, total * sizeof(double), on_host.data());
  const double* sum = on_host.data();
  for (const RowSquares& one : all)
    for (double& square : one.squares) square += *sum++ / divisor;
}

void segment_mean(const Tensor& x, const Tensor& offsets, const Tensor& y) {
  const Index columns = y.size(1);
  for_floating(x.dtype(), "segment_mean", [&]<class T>(T) {
    for_width<T>(columns, {x.raw(), y.raw()}, [&]<int kWidth>() {
      const Segment<T, kWidth> segment{columns, offsets.data<std::int32_t>()};
      for_items("segment_mean", y.numel() / kWidth,
                SegmentMean<T, kWidth>{segment, x.data<T>(), y.data<T>()});
    });
  });
}

void segment_mean_backward(const Tensor& dy, const Tensor& offsets, const Tensor& dx, Write write) {
  const Index columns = dy.size(1);
  for_floating(dx.dtype(), "segment_mean backward", [&]<class T>(T) {
    for_width<T>(columns, {dy.raw(), dx.raw()}, [&]<int kWidth>() {
      const Segment<T, kWidth> segment{columns, offsets.data<std::int32_t>()};
      for_items("segment_mean backward", dy.numel() / kWidth,
                SegmentMeanBackward<T, kWidth>{segment, dy.data<T>(), dx.data<T>(), write});
    });
  });
}

void segment_max(const Tensor& x, const Tensor& offsets, const Tensor& y, const Tensor& winners) {
  const Index columns = y.size(1);
  for_floating(x.dtype(), "segment_max", [&]<class T>(T) {
    for_width<T>(columns, {x.raw(), y.raw(), winners.raw()}, [&]<int kWidth>() {
      const Segment<T, kWidth> segment{columns, offsets.data<std::int32_t>()};
      for_items("segment_max", y.numel() / kWidth,
                SegmentMax<T, kWidth>{segment, x.data<T>(), y.data<T>(), winners.data<std::int32_t>()});
    });
  });
}

void segment_max_backward(const Tensor& dy, const Tensor& winners, const Tensor& dx) {
  for_floating(dy.dtype(), "segment_max backward", [&]<class T>(T) {
    for_items("segment_max backward", dy.numel(),
              SegmentMaxBackward<T>{dy.size(1), dy.data<T>(), winners.data<std::int32_t>(), dx.data<T>()});
  });
}

void column_sums(const Tensor& x, const Tensor& sums) {
  for_floating(x.dtype(), "column_sums", [&]<class T>(T) {
    add_column_sums<T, 1>("column_sums", x.size(0), x.size(1), Column<T>{x.size(1), x.data<T>()},
                          {sums.data<T>()});
  });
}

}  // namespace conclave::kernels::cuda

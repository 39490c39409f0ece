#include "core/kernels/reduction.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace conclave::kernels {
namespace {

// The number of partial sums, over equal parts of the elements: enough to balance any number of threads.
constexpr Index kParts = 64;
// Elements that are summed in vectors, in the type of `element`'s result, before their sum is added to a
// double: few enough for f32 to lose nothing that matters.
constexpr Index kRun = 128;

template <class Element>
double reduce(const Tensor& x, Element element) {
  return for_floating(x.dtype(), "sum", [&]<class T>(T) {
    require(x.contiguous(), "sum: x {} has gaps", x.shape());
    const T* values = x.data<T>();
    const Index total = x.numel();
    std::array<double, kParts> partial{};
#pragma omp parallel for schedule(static) if (total > kParallelElements)
    for (Index part = 0; part < kParts; ++part) {
      double sum = 0;
      const Index begin = total * part / kParts, end = total * (part + 1) / kParts;
      for (Index first = begin; first < end; first += kRun) {
        const Index last = std::min(first + kRun, end);
        auto run = element(T(0));
#pragma omp simd reduction(+ : run)
        for (Index i = first; i < last; ++i) run += element(values[i]);
        sum += static_cast<double>(run);
      }
      partial[static_cast<std::size_t>(part)] = sum;
    }
    double sum = 0;
    for (const double value : partial) sum += value;
    return sum;
  });
}

struct Segments {
  Index count, hidden;
  const std::int32_t* bounds;
};

Segments check(const char* operation, const Tensor& rows, const Tensor& offsets, const Tensor& reduced) {
  expect_rank(operation, "x", rows, 2);
  const Index count = expect_offsets(operation, offsets, rows.size(0)), hidden = rows.size(1);
  expect(operation, "x", rows, rows.shape(), reduced.dtype());
  expect(operation, "y", reduced, {count, hidden}, rows.dtype());
  return {count, hidden, offsets.data<std::int32_t>()};
}

}  // namespace

double sum(const Tensor& x) {
  if constexpr (kBuiltWithCuda)
    if (on_cuda("sum", x)) return cuda::sum(x);
  return reduce(x, [](auto value) { return value; });
}

double sum_of_squares(const Tensor& x) {
  if constexpr (kBuiltWithCuda)
    if (on_cuda("sum", x)) return cuda::sum_of_squares(x);
  // The square of a finite f32 can overflow f32.
  return reduce(x, [](double value) { return value * value; });
}

bool all_finite(const Tensor& x) {
  if constexpr (kBuiltWithCuda)
    if (on_cuda("all_finite", x)) return cuda::all_finite(x);
  // Tested by the bits: the compiler, which may reassociate sums, removes arithmetic tests (x * 0, x - x).
  return reduce(x, []<class T>(T value) {
           using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
           constexpr Bits kExponent = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
           return (std::bit_cast<Bits>(value) & kExponent) == kExponent ? T(1) : T(0);
         }) == 0.0;
}

void add_row_squares(std::span<const RowSquares> all, double divisor) {
  for (const auto& [x, squares] : all) {
    require(x.rank() >= 1 && x.contiguous() && x.size(0) == static_cast<Index>(squares.size()),
            "row_squares: x is {}{}, expected [{}, ...]", x.shape(), x.contiguous() ? "" : " (strided)",
            squares.size());
    expect("row_squares", "x", x, x.shape(), all.front().x.dtype());
  }
  if (all.empty()) return;
  bool device = false;
  for (const RowSquares& one : all) device = on_cuda("row_squares", all.front().x, one.x);
  if constexpr (kBuiltWithCuda)
    if (device) return cuda::add_row_squares(all, divisor);
  for (const auto& [x, squares] : all)
    for (std::size_t i = 0; i < squares.size(); ++i)
      squares[i] += sum_of_squares(x.rows(static_cast<Index>(i), static_cast<Index>(i) + 1)) / divisor;
}

void segment_mean(const Tensor& x, const Tensor& offsets, const Tensor& y) {
  const auto [count, hidden, bounds] = check("segment_mean", x, offsets, y);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("segment_mean", x, offsets, y)) return cuda::segment_mean(x, offsets, y);
  for_floating(x.dtype(), "segment_mean", [&, hidden = hidden, bounds = bounds, count = count]<class T>(T) {
    const T* px = x.data<T>();
    T* py = y.data<T>();
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index s = 0; s < count; ++s) {
      T* to = py + s * hidden;
      std::fill(to, to + hidden, T(0));
      for (Index row = bounds[s]; row < bounds[s + 1]; ++row) {
        const T* from = px + row * hidden;
#pragma omp simd
        for (Index i = 0; i < hidden; ++i) to[i] += from[i];
      }
      const T inverse = T(1) / static_cast<T>(std::max(bounds[s + 1] - bounds[s], 1));
      for (Index i = 0; i < hidden; ++i) to[i] *= inverse;
    }
  });
}

void segment_mean_backward(const Tensor& dy, const Tensor& offsets, const Tensor& dx, Write mode) {
  const auto [count, hidden, bounds] = check("segment_mean backward", dx, offsets, dy);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("segment_mean backward", dy, offsets, dx))
      return cuda::segment_mean_backward(dy, offsets, dx, mode);
  for_floating(dx.dtype(), "segment_mean", [&, hidden = hidden, bounds = bounds, count = count]<class T>(T) {
    const T* up = dy.data<T>();
    T* out = dx.data<T>();
#pragma omp parallel for schedule(static) if (dx.numel() > kParallelElements)
    for (Index s = 0; s < count; ++s) {
      const T inverse = T(1) / static_cast<T>(std::max(bounds[s + 1] - bounds[s], 1));
      for (Index row = bounds[s]; row < bounds[s + 1]; ++row)
        for (Index i = 0; i < hidden; ++i) write(out[row * hidden + i], inverse * up[s * hidden + i], mode);
    }
  });
}

void segment_max(const Tensor& x, const Tensor& offsets, const Tensor& y, const Tensor& winners) {
  const auto [count, hidden, bounds] = check("segment_max", x, offsets, y);
  expect("segment_max", "winners", winners, y.shape(), DType::i32);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("segment_max", x, offsets, y, winners)) return cuda::segment_max(x, offsets, y, winners);
  for_floating(x.dtype(), "segment_max", [&, hidden = hidden, bounds = bounds, count = count]<class T>(T) {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    std::int32_t* pw = winners.data<std::int32_t>();
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index s = 0; s < count; ++s) {
      T* best = py + s * hidden;
      std::int32_t* winner = pw + s * hidden;
      std::fill(best, best + hidden, T(0));
      std::fill(winner, winner + hidden, -1);
      for (std::int32_t row = bounds[s]; row < bounds[s + 1]; ++row) {
        const T* from = px + row * hidden;
        for (Index i = 0; i < hidden; ++i)
          if (winner[i] < 0 || from[i] > best[i] || from[i] != from[i]) {  // NaN wins
            best[i] = from[i];
            winner[i] = row;
          }
      }
    }
  });
}

void segment_max_backward(const Tensor& dy, const Tensor& winners, const Tensor& dx) {
  const Index count = dy.size(0), hidden = dy.size(1);
  expect("segment_max backward", "winners", winners, dy.shape(), DType::i32);
  require(dx.rank() == 2 && dx.size(1) == hidden, "segment_max backward: dx is {}, expected [rows, {}]",
          dx.shape(), hidden);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("segment_max backward", dy, winners, dx)) return cuda::segment_max_backward(dy, winners, dx);
  const std::int32_t* pw = winners.data<std::int32_t>();
  for_floating(dy.dtype(), "segment_max backward", [&]<class T>(T) {
    const T* up = dy.data<T>();
    T* out = dx.data<T>();
    for (Index i = 0; i < count * hidden; ++i)
      if (pw[i] >= 0) out[pw[i] * hidden + i % hidden] += up[i];
  });
}

void column_sums(const Tensor& x, const Tensor& sums) {
  expect_rank("column_sums", "x", x, 2);
  expect("column_sums", "x", x, x.shape(), x.dtype());
  expect("column_sums", "sums", sums, {x.size(1)}, x.dtype());
  const Index rows = x.size(0), columns = x.size(1);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("column_sums", x, sums)) return cuda::column_sums(x, sums);
  for_floating(x.dtype(), "column_sums", [&]<class T>(T) {
    const T* px = x.data<T>();
    T* ps = sums.data<T>();
#pragma omp parallel if (x.numel() > kParallelElements)
    {
      const Index threads = omp_get_num_threads(), me = omp_get_thread_num();
      const Index begin = columns * me / threads, end = columns * (me + 1) / threads;
      for (Index row = 0; row < rows; ++row) {
#pragma omp simd
        for (Index i = begin; i < end; ++i) ps[i] += px[row * columns + i];
      }
    }
  });
}

}  // namespace conclave::kernels

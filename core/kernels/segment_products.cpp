#include "core/kernels/segment_products.h"

#include <array>
#include <cmath>
#include <limits>

namespace conclave::kernels {
namespace {

// Tiles of matrices that would be large: two tiles fit the second-level cache, and the stack.
constexpr Index kTile = 64;
template <class T>
using Tile = std::array<T, kTile * kTile>;

template <class T>
Tensor as_tensor(Tile<T>& tile, Index rows, Index columns) {
  return Tensor::borrow(tile.data(), {rows, columns}, dtype_of<T>);
}

template <class T>
double dot(const T* a, const T* b, Index count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// By (x x^T) and (dz dz^T); tiles beside the diagonal count twice.
template <class T>
double square_by_rows(const Tensor& dz, const Tensor& x) {
  Tile<T> of_x, of_dz;
  double square = 0;
  for (Index i = 0; i < x.size(0); i += kTile)
    for (Index j = 0; j <= i; j += kTile) {
      const Index rows = std::min(kTile, x.size(0) - i), columns = std::min(kTile, x.size(0) - j);
      const auto products = [&](const Tensor& of, Tile<T>& tile) {
        matmul(of.rows(i, i + rows), Transpose::no, of.rows(j, j + columns), Transpose::yes,
               as_tensor(tile, rows, columns));
      };
      products(x, of_x);
      products(dz, of_dz);
      square += (i == j ? 1 : 2) * dot(of_x.data(), of_dz.data(), rows * columns);
    }
  return square;
}

// By the elements of dz^T x.
template <class T>
double square_by_elements(const Tensor& dz, const Tensor& x) {
  Tile<T> tile;
  double square = 0;
  for (Index i = 0; i < dz.size(1); i += kTile)
    for (Index j = 0; j < x.size(1); j += kTile) {
      const Index rows = std::min(kTile, dz.size(1) - i), columns = std::min(kTile, x.size(1) - j);
      matmul(dz.slice(1, i, i + rows), Transpose::yes, x.slice(1, j, j + columns), Transpose::no,
             as_tensor(tile, rows, columns));
      square += dot(tile.data(), tile.data(), rows * columns);
    }
  return square;
}

// The sum over rows of |x_t| |dz_t|, an upper bound of the norm of dz^T x.
template <class T>
double largest_norm(const Tensor& dz, const Tensor& x) {
  const T *px = x.data<T>(), *pdz = dz.data<T>();
  double sum = 0;
  for (Index row = 0; row < x.size(0); ++row, px += x.size(1), pdz += dz.size(1))
    sum += std::sqrt(dot(px, px, x.size(1)) * dot(pdz, pdz, dz.size(1)));
  return sum;
}

// `square` plus the most that rounding may have taken from it in products of `terms` terms in T (Higham 2002,
// section 3.1); `most` is an upper bound of the square.
template <class T>
double rounded_up(double square, double most, Index terms) {
  return std::max(square, 0.0) + static_cast<double>(terms) * std::numeric_limits<T>::epsilon() / 2 * most;
}

void check(const char* operation, const Tensor& x, const RowSegments& segments, std::size_t per_segment) {
  expect_rank(operation, "x", x, 2);
  expect_offsets(operation, "offsets", segments.offsets, segments.count(), segments.offsets.back());
  require(x.size(0) == segments.rows(), "{}: {} rows, and segments of {}", operation, x.size(0),
          segments.rows());
  require(static_cast<Index>(per_segment) == segments.count(), "{}: {} numbers for {} segments", operation,
          per_segment, segments.count());
  require(x.device() == Device::cpu,
          "{}: rows are on a CUDA device; per-example gradients need them in host memory", operation);
}

}  // namespace

void add_product_squares(const Tensor& dz, const Tensor& x, const RowSegments& segments,
                         std::span<double> squares) {
  check("product squares", x, segments, squares.size());
  expect("product squares", "dz", dz, {x.size(0), dz.size(1)}, x.dtype());
  const Index in = x.size(1), out = dz.size(1), count = segments.count();
  for_floating(x.dtype(), "product squares", [&]<class T>(T) {
#pragma omp parallel for schedule(dynamic) if (x.numel() + dz.numel() > kParallelElements)
    for (Index s = 0; s < count; ++s) {
      const Index begin = segments.begin(s), end = segments.end(s), rows = end - begin;
      const Tensor own_dz = dz.rows(begin, end), own_x = x.rows(begin, end);
      const double norm = largest_norm<T>(own_dz, own_x);
      double square = norm * norm;
      if (rows > 1 && rows * (in + out) <= 2 * in * out)  // only half of the tiles are computed
        square = rounded_up<T>(square_by_rows<T>(own_dz, own_x), square, in + out);
      else if (rows > 1)
        square = rounded_up<T>(square_by_elements<T>(own_dz, own_x), square, 2 * rows);
      squares[static_cast<std::size_t>(s)] += square;
    }
  });
}

void segment_products(const Tensor& dz, const Tensor& x, const RowSegments& segments,
                      const Tensor& products) {
  check("segment products", x, segments, static_cast<std::size_t>(products.size(0)));
  expect("segment products", "dz", dz, {x.size(0), dz.size(1)}, x.dtype());
  expect("segment products", "products", products, {segments.count(), dz.size(1), x.size(1)}, x.dtype());
  const Index count = segments.count(), out = dz.size(1), in = x.size(1);
#pragma omp parallel for schedule(dynamic) if (x.numel() + dz.numel() > kParallelElements)
  for (Index s = 0; s < count; ++s) {
    const Index begin = segments.begin(s), end = segments.end(s);
    const Tensor product = products.rows(s, s + 1).reshape({out, in});
    if (begin == end)
      product.zero();
    else
      matmul(dz.rows(begin, end), Transpose::yes, x.rows(begin, end), Transpose::no, product);
  }
}

void segment_sums(const Tensor& x, const RowSegments& segments, const Tensor& sums) {
  check("segment sums", x, segments, static_cast<std::size_t>(sums.size(0)));
  expect("segment sums", "sums", sums, {segments.count(), x.size(1)}, x.dtype());
  const Index count = segments.count(), columns = x.size(1);
  for_floating(x.dtype(), "segment sums", [&]<class T>(T) {
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index s = 0; s < count; ++s) {
      T* sum = sums.data<T>() + s * columns;
      std::fill_n(sum, columns, T(0));
      for (Index row = segments.begin(s); row < segments.end(s); ++row) {
        const T* values = x.data<T>() + row * columns;
#pragma omp simd
        for (Index i = 0; i < columns; ++i) sum[i] += values[i];
      }
    }
  });
}

void add_segment_squares(const Tensor& values, std::span<double> squares) {
  const auto count = static_cast<Index>(squares.size()), columns = values.numel() / std::max<Index>(count, 1);
  require(values.rank() >= 1 && values.size(0) == count && values.contiguous(),
          "segment squares: values {}, expected [{}, ...]", values.shape(), count);
  for_floating(values.dtype(), "segment squares", [&]<class T>(T) {
#pragma omp parallel for schedule(static) if (values.numel() > kParallelElements)
    for (Index s = 0; s < count; ++s) {
      const T* own = values.data<T>() + s * columns;
      squares[static_cast<std::size_t>(s)] += dot(own, own, columns);
    }
  });
}

void add_embedding_squares(const Tensor& dy, const Tensor& ids, const RowSegments& segments,
                           std::span<double> squares) {
  check("embedding squares", dy, segments, squares.size());
  expect("embedding squares", "ids", ids, {dy.size(0)}, DType::i32);
  const Index count = segments.count(), columns = dy.size(1);
  const auto* id = ids.data<std::int32_t>();
  for_floating(dy.dtype(), "embedding squares", [&]<class T>(T) {
    const auto row = [&](Index number) { return dy.data<T>() + number * columns; };
#pragma omp parallel for schedule(dynamic) if (dy.numel() > kParallelElements)
    for (Index s = 0; s < count; ++s) {
      double square = 0;
      for (Index i = segments.begin(s); i < segments.end(s); ++i) {
        square += dot(row(i), row(i), columns);
        for (Index j = segments.begin(s); j < i; ++j)
          if (id[i] == id[j]) square += 2 * dot(row(i), row(j), columns);
      }
      squares[static_cast<std::size_t>(s)] += std::max(square, 0.0);
    }
  });
}

void scale_segments(const Tensor& x, const RowSegments& segments, std::span<const double> factors) {
  check("scale segments", x, segments, factors.size());
  const Index count = segments.count(), columns = x.size(1);
  for_floating(x.dtype(), "scale segments", [&]<class T>(T) {
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index s = 0; s < count; ++s) {
      const T factor = static_cast<T>(factors[static_cast<std::size_t>(s)]);
      T* values = x.data<T>() + segments.begin(s) * columns;
      const Index elements = (segments.end(s) - segments.begin(s)) * columns;
      if (factor == 0) {  // even if they are not finite
        std::fill_n(values, elements, T(0));
        continue;
      }
#pragma omp simd
      for (Index i = 0; i < elements; ++i) values[i] *= factor;
    }
  });
}

void add_weighted(const Tensor& values, std::span<const double> factors, std::span<const Index> groups,
                  const Tensor& y) {
  const Index count = values.size(0), all = groups.empty() ? 1 : y.size(0);
  const Index columns = y.numel() / std::max<Index>(all, 1);
  require(static_cast<Index>(factors.size()) == count &&
              (groups.empty() || groups.size() == factors.size()) && values.numel() == count * columns &&
              values.dtype() == y.dtype() && y.contiguous(),
          "weighted sum: values {}, {} factors and {} groups do not match y {}", values.shape(),
          factors.size(), groups.size(), y.shape());
  constexpr Index kBlock = 1024;  // columns that stay in the cache
  for_floating(y.dtype(), "weighted sum", [&]<class T>(T) {
#pragma omp parallel for schedule(static) if (values.numel() > kParallelElements)
    for (Index first = 0; first < columns; first += kBlock) {
      const Index width = std::min(kBlock, columns - first);
      for (Index s = 0; s < count; ++s) {
        const auto at = static_cast<std::size_t>(s);
        const T factor = static_cast<T>(factors[at]);
        if (factor == 0) continue;
        const T* from = values.data<T>() + s * columns + first;
        T* to = y.data<T>() + (groups.empty() ? 0 : groups[at]) * columns + first;
#pragma omp simd
        for (Index i = 0; i < width; ++i) to[i] += factor * from[i];
      }
    }
  });
}

}  // namespace conclave::kernels

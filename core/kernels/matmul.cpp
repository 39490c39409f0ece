#include "core/kernels/matmul.h"

#include <cblas.h>

#include <algorithm>

#include "core/kernels/activation.h"
#include "core/kernels/few_rows.h"

namespace conclave::kernels {
namespace {

void gemm(bool ta, bool tb, Index m, Index n, Index k, const float* a, Index lda, const float* b, Index ldb,
          float beta, float* c, Index ldc) {
  cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
              static_cast<blasint>(m), static_cast<blasint>(n), static_cast<blasint>(k), 1.0f, a,
              static_cast<blasint>(lda), b, static_cast<blasint>(ldb), beta, c, static_cast<blasint>(ldc));
}
void gemm(bool ta, bool tb, Index m, Index n, Index k, const double* a, Index lda, const double* b, Index ldb,
          double beta, double* c, Index ldc) {
  cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
              static_cast<blasint>(m), static_cast<blasint>(n), static_cast<blasint>(k), 1.0, a,
              static_cast<blasint>(lda), b, static_cast<blasint>(ldb), beta, c, static_cast<blasint>(ldc));
}

// One task is a block of at most `block` consecutive items (rows, or weight rows) of one group.
struct Blocks {
  RowOffsets offsets;
  Index block;
  Index count() const {
    Index total = 0;
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
      total += (offsets[g + 1] - offsets[g] + block - 1) / block;
    return total;
  }
  struct Task {
    Index group, begin, end;
  };
  Task task(Index number) const {
    for (std::size_t g = 0;; ++g) {
      const Index blocks = (offsets[g + 1] - offsets[g] + block - 1) / block;
      if (number < blocks) {
        const Index begin = offsets[g] + number * block;
        return {static_cast<Index>(g), begin, std::min(begin + block, offsets[g + 1])};
      }
      number -= blocks;
    }
  }
};

// Rows per task. Four tasks per thread balance uneven experts. Below 64 rows, BLAS packs the weight too often
// for its arithmetic; above 512, a block's output leaves the cache before the activation reads it.
Index rows_per_task(Index rows) {
  const Index share = rows / (4 * omp_get_max_threads());
  return std::clamp<Index>((share + 7) / 8 * 8, 64, 512);
}

// Outputs that are packed in panels; the rest, less than a vector, is read from the weight's rows.
template <class T>
Index paneled_outputs(Index out) {
  return out / kLanes<T> * kLanes<T>;
}

}  // namespace

void expect_offsets(const char* operation, const char* argument, RowOffsets offsets, Index groups,
                    Index rows) {
  require(!offsets.empty() && static_cast<Index>(offsets.size()) == groups + 1 && offsets.front() == 0 &&
              offsets.back() == rows && std::ranges::is_sorted(offsets),
          "{}: {} must rise from 0 to {} in {} entries", operation, argument, rows,
          std::max<Index>(groups, 0) + 1);
}

void matmul(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b, const Tensor& c,
            Write write) {
  const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
  for (const auto& [name, tensor] : {std::pair{"a", &a}, {"b", &b}, {"c", &c}}) {
    expect_rank("matmul", name, *tensor, 2);
    require(tensor->stride(1) == 1 || tensor->size(1) <= 1, "matmul: {} {} has strided columns", name,
            tensor->shape());
  }
  const Index m = a.size(ta ? 1 : 0), k = a.size(ta ? 0 : 1), n = b.size(tb ? 0 : 1), kb = b.size(tb ? 1 : 0);
  require(k == kb, "matmul: a {}{} and b {}{} do not chain: {} != {}", a.shape(), ta ? "^T" : "", b.shape(),
          tb ? "^T" : "", k, kb);
  require(c.size(0) == m && c.size(1) == n, "matmul: c is {}, expected [{}, {}]", c.shape(), m, n);
  if (m == 0 || n == 0) return;
  if constexpr (kBuiltWithCuda)
    if (on_cuda("matmul", a, b, c)) return cuda::matmul(a, transpose_a, b, transpose_b, c, write);
  for_floating(a.dtype(), "matmul", [&]<class T>(T) {
    gemm(ta, tb, m, n, k, a.data<T>(), std::max<Index>(a.stride(0), 1), b.data<T>(),
         std::max<Index>(b.stride(0), 1), write == Write::accumulate ? T(1) : T(0), c.data<T>(),
         std::max<Index>(c.stride(0), 1));
  });
}

void grouped_linear(const Tensor& x, RowOffsets offsets, const Tensor& weight, const Tensor& bias,
                    Activation activation, const Tensor& y, const Tensor& derivative, RowBits bits,
                    const Tensor& panels) {
  expect_rank("linear", "x", x, 2);
  expect_rank("linear", "weight", weight, 3);
  const Index rows = x.size(0), in = x.size(1), groups = weight.size(0), out = weight.size(1);
  require(weight.size(2) == in, "linear: x {} and weight {} do not chain: {} != {}", x.shape(),
          weight.shape(), in, weight.size(2));
  expect_offsets("linear", "offsets", offsets, groups, rows);
  expect("linear", "x", x, {rows, in}, weight.dtype());
  expect("linear", "y", y, {rows, out}, weight.dtype());
  if (bias.defined()) expect("linear", "bias", bias, {groups, out}, weight.dtype());
  if (derivative.defined()) expect("linear", "derivative", derivative, {rows, out}, weight.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("linear", x, weight, bias, y, derivative))
      return cuda::grouped_linear(x, offsets, weight, bias, activation, y, derivative, bits);
  const bool packed = panels.defined() && bits == RowBits::independent;
  if (packed) expect("linear", "panels", panels, panels_shape(weight), weight.dtype());

  Index largest = 0;
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
    largest = std::max(largest, offsets[g + 1] - offsets[g]);
  const Blocks blocks{offsets, rows_per_task(rows)};
  const Index tasks = blocks.count();
  for_floating(x.dtype(), "linear", [&]<class T>(T) {
    const T *px = x.data<T>(), *pw = weight.data<T>(), *pb = bias.defined() ? bias.data<T>() : nullptr;
    T *py = y.data<T>(), *pd = derivative.defined() ? derivative.data<T>() : nullptr;
    if (largest <= kFewRows || bits == RowBits::independent) {
      // Groups of many rows, and all groups if the weight is packed, use weights in panels.
      const Index paneled = packed || largest > kFewRows ? paneled_outputs<T>(out) : 0;
      // The weights begin at `from`, with `of_group` outputs per group.
      const auto product = [&](const Blocks& parts, const T* from, Index of_group, Index first_output,
                               Index last_output, auto&& multiply) {
        const Index count = parts.count();
        // Each task rearranges its operand anew, so there should be few tasks; but every thread needs a few.
        // A share consists of whole panels, which have 32 outputs at most.
        const Index even = count * (last_output - first_output) / (4 * omp_get_max_threads());
        const Index share = std::clamp<Index>((even + 31) / 32 * 32, packed ? 32 : 64, kFewOutputs<T>);
#pragma omp parallel for collapse(2) schedule(dynamic) if (rows * in * out > kParallelElements)
        for (Index number = 0; number < count; ++number) {
          for (Index first = first_output; first < last_output; first += share) {
            const auto [group, begin, end] = parts.task(number);
            const Index outputs = std::min(share, last_output - first);
            multiply(end - begin, outputs, in, px + begin * in, from + (group * of_group + first) * in,
                     pb ? pb + group * out + first : nullptr, py + begin * out + first, out);
            if (activation == Activation::none && !pd) continue;
            for (Index at = begin * out + first; at < end * out; at += out)
              activate(py + at, outputs, activation, pd ? pd + at : nullptr);
          }
        }
      };
      if (packed)
        product({offsets, kManyRows}, panels.data<T>(), paneled, 0, paneled, many_rows_product<T, true>);
      else if (paneled > 0)
        product({offsets, kManyRows}, pw, out, 0, paneled, [](Index count, auto... arguments) {
          (count > kFewRows ? many_rows_product<T, false> : few_rows_product<T>)(count, arguments...);
        });
      if (paneled < out) product({offsets, kFewRows}, pw, out, paneled, out, few_rows_product<T>);
      return;
    }
#pragma omp parallel for schedule(dynamic) if (tasks > 1)
    for (Index number = 0; number < tasks; ++number) {
      const auto [group, begin, end] = blocks.task(number);
      // The product is added to the bias: writing the bias costs as much as BLAS's zeroing of y, which it
      // replaces.
      if (pb)
        for (Index row = begin; row < end; ++row) std::copy_n(pb + group * out, out, py + row * out);
      gemm(false, true, end - begin, out, in, px + begin * in, in, pw + group * out * in, in, T(pb ? 1 : 0),
           py + begin * out, out);
      if (activation != Activation::none || pd)
        activate(py + begin * out, (end - begin) * out, activation, pd ? pd + begin * out : nullptr);
    }
  });
}

Shape panels_shape(const Tensor& weight) {
  expect_rank("pack_weight", "weight", weight, 3);
  return for_floating(weight.dtype(), "pack_weight", [&]<class T>(T) {
    return Shape{weight.size(0), paneled_outputs<T>(weight.size(1)), weight.size(2)};
  });
}

void pack_weight(const Tensor& weight, const Tensor& panels) {
  const Shape shape = panels_shape(weight);
  const Index groups = weight.size(0), out = weight.size(1), in = weight.size(2);
  expect("pack_weight", "weight", weight, {groups, out, in}, weight.dtype());
  expect("pack_weight", "panels", panels, shape, weight.dtype());
  for_floating(weight.dtype(), "pack_weight", [&]<class T>(T) {
    const Index paneled = paneled_outputs<T>(out), panel = few_rows::panel_columns<T>();
#pragma omp parallel for collapse(2) schedule(static) if (weight.numel() > kParallelElements)
    for (Index group = 0; group < groups; ++group)
      for (Index output = 0; output < paneled; output += panel) {
        const Index count = std::min(panel, paneled - output);
        few_rows::transpose_rows(count, in, weight.data<T>() + (group * out + output) * in, in,
                                 panels.data<T>() + (group * paneled + output) * in, count);
      }
  });
}

void grouped_linear_backward_input(const Tensor& dz, RowOffsets offsets, const Tensor& weight,
                                   const Tensor& dx, Write write) {
  const Index rows = dz.size(0), groups = weight.size(0), out = weight.size(1), in = weight.size(2);
  expect_offsets("linear backward", "offsets", offsets, groups, rows);
  expect("linear backward", "dz", dz, {rows, out}, weight.dtype());
  expect("linear backward", "dx", dx, {rows, in}, weight.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("linear backward", dz, weight, dx))
      return cuda::grouped_linear_backward_input(dz, offsets, weight, dx, write);
  const Blocks blocks{offsets, rows_per_task(rows)};
  const Index tasks = blocks.count();
  for_floating(dz.dtype(), "linear backward", [&]<class T>(T) {
    const T *pdz = dz.data<T>(), *pw = weight.data<T>();
    T* pdx = dx.data<T>();
    const T beta = write == Write::accumulate ? T(1) : T(0);
#pragma omp parallel for schedule(dynamic) if (tasks > 1)
    for (Index number = 0; number < tasks; ++number) {
      const auto [group, begin, end] = blocks.task(number);
      gemm(false, false, end - begin, in, out, pdz + begin * out, out, pw + group * out * in, in, beta,
           pdx + begin * in, in);
    }
  });
}

void grouped_linear_backward_parameters(const Tensor& dz, const Tensor& x, RowOffsets offsets,
                                        const Tensor& dweight, const Tensor& dbias) {
  const Index rows = dz.size(0), groups = dweight.size(0), out = dweight.size(1), in = dweight.size(2);
  expect_offsets("linear backward", "offsets", offsets, groups, rows);
  expect("linear backward", "dz", dz, {rows, out}, dweight.dtype());
  expect("linear backward", "x", x, {rows, in}, dweight.dtype());
  if (dbias.defined()) expect("linear backward", "dbias", dbias, {groups, out}, dweight.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("linear backward", dz, x, dweight, dbias))
      return cuda::grouped_linear_backward_parameters(dz, x, offsets, dweight, dbias);
  // A group's weight rows are cut only as often as needed for a task per thread: BLAS packs x again for each
  // cut.
  const Index per_group = std::max<Index>((omp_get_max_threads() + groups - 1) / groups, 1);
  const Index block = std::clamp<Index>(((out + per_group - 1) / per_group + 15) / 16 * 16, 32, 1024);
  const Index cuts = (out + block - 1) / block;
  for_floating(dz.dtype(), "linear backward", [&]<class T>(T) {
    const T *pdz = dz.data<T>(), *px = x.data<T>();
    T *pdw = dweight.data<T>(), *pdb = dbias.defined() ? dbias.data<T>() : nullptr;
#pragma omp parallel for schedule(dynamic) collapse(2) if (rows * out * in > kParallelElements)
    for (Index group = 0; group < groups; ++group) {
      for (Index cut = 0; cut < cuts; ++cut) {
        const Index begin = offsets[static_cast<std::size_t>(group)],
                    end = offsets[static_cast<std::size_t>(group) + 1];
        const Index first = cut * block, columns = std::min(block, out - first);
        if (begin == end) continue;
        gemm(true, false, columns, in, end - begin, pdz + begin * out + first, out, px + begin * in, in, T(1),
             pdw + (group * out + first) * in, in);
        if (!pdb) continue;
        T* sums = pdb + group * out + first;
        for (Index row = begin; row < end; ++row) {
          const T* values = pdz + row * out + first;
#pragma omp simd
          for (Index column = 0; column < columns; ++column) sums[column] += values[column];
        }
      }
    }
  });
}

}  // namespace conclave::kernels

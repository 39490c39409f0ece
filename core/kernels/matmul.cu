#include "core/kernels/matmul.h"

#include <algorithm>
#include <type_traits>

#include "core/cuda/blas.h"
#include "core/kernels/activated.h"
#include "core/kernels/activation.h"
#include "core/kernels/cuda_groups.h"
#include "core/kernels/reduction.h"

namespace conclave::kernels::cuda {
namespace {

using conclave::cuda::Matrix;
using conclave::cuda::MatrixProduct;
using conclave::cuda::multiplied;
using conclave::cuda::multiply;
using conclave::cuda::Scratch;

Index largest_group(RowOffsets offsets) {
  Index largest = 0;
  for_groups(offsets, [&](Index, Index, Index rows) { largest = std::max(largest, rows); });
  return largest;
}

// y = activation(y + the group's bias); `derivative`, if not null, receives the activation's derivative.
template <class T, Activation kActivation, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    finish_kernel(const __grid_constant__ Groups groups, Index out, const T* bias, T* y, T* derivative) {
  for_team_rows(groups.end() - groups.begin(), [&](Index i) {
    const Index row = groups.begin() + i;
    const T* added = bias + (groups.first + groups.of(row)) * out;
    for_columns<kWidth, kTeam>(out, [&](Index column) {
      Pack<T, kWidth> value = load<kWidth>(y + row * out + column), slope;
      const Pack<T, kWidth> more = load<kWidth>(added + column);
      for (int j = 0; j < kWidth; ++j)
        value.at[j] = activated<kActivation>(value.at[j] + more.at[j], slope.at[j]);
      store<kWidth>(y + row * out + column, value);
      if (derivative) store<kWidth>(derivative + row * out + column, slope);
    });
  });
}

// What follows the products of grouped_linear, unless that is a bias alone. cuBLASLt's own epilogues cannot
// do it: its ReLU turns NaN into 0, its GELU is a different function, and it gives no derivatives.
template <class T>
void finish(RowOffsets offsets, const Tensor& bias, Activation kind, const Tensor& y,
            const Tensor& derivative) {
  if (!bias.defined()) return activation(y, kind, y, derivative);
  const Index out = y.size(1);
  T* slopes = derivative.defined() ? derivative.data<T>() : nullptr;
  for_runs(offsets, [&](const Groups& run) {
    for_team<T>(out, {bias.raw(), y.raw(), slopes}, [&]<int kWidth, int kTeam>() {
      for_activation(kind, [&]<Activation kActivation>() {
        launch("linear", finish_kernel<T, kActivation, kWidth, kTeam>,
               team_shape<kTeam>(run.end() - run.begin()), run, out, bias.data<T>(), y.data<T>(), slopes);
      });
    });
  });
}

// ---- Products of all groups by one kernel. A sum's terms are added in the order of the inner dimension,
// whatever the shape: a row's bits do not depend on other rows.

constexpr int kTile = 64;   // rows and columns of the result for one block
constexpr int kDepth = 16;  // of the inner dimension at a time
constexpr int kMine = 4;    // rows and columns for one thread
constexpr int kThreads = kTile / kMine;
static_assert(kThreads * kThreads == kBlock);

// One operand: the address of the values for the first row (or column) of the result, and the distances to
// the values of the next row and of the next depth.
template <class T>
struct Side {
  const T* data;
  Index step, depth_step;
};

// result [rows, columns] = left [rows, depth] right [depth, columns]
template <class T>
struct Part {
  Index rows, columns, depth;
  Side<T> left, right;
};

// tile[d][i] = the value for row first + i at depth + d, 0 beyond the end.
template <class T>
__device__ void load_tile(const Side<T>& side, Index first, Index end, Index depth, Index depth_end,
                          T (&tile)[kDepth][kTile + kMine]) {
  const bool along = side.depth_step == 1;  // neighbouring threads load neighbours in memory
  for (int item = static_cast<int>(threadIdx.x); item < kTile * kDepth; item += kBlock) {
    const int d = along ? item % kDepth : item / kTile, i = along ? item / kDepth : item % kTile;
    tile[d][i] = first + i < end && depth + d < depth_end
                     ? side.data[(first + i) * side.step + (depth + d) * side.depth_step]
                     : T(0);
  }
}

// body.part(g) returns the operands of the g-th of body.groups; body.write(g, row, column, sum) takes the
// result. If there is a body.add_left(g, row, sum), it takes the sums of the left side's rows. At least two
// blocks share a multiprocessor, so that one multiplies while the other waits for its tiles.
template <class T, class Body>
__global__ void __launch_bounds__(kBlock, 2) grouped_product_kernel(const __grid_constant__ Body body) {
  constexpr bool kAddLeft = requires(T sum) { body.add_left(Index{}, Index{}, sum); };
  __shared__ __align__(32) T left[kDepth][kTile + kMine];  // + kMine: depths lie in different banks
  __shared__ __align__(32) T right[kDepth][kTile + kMine];
  const Index group = blockIdx.z, first_column = Index{blockIdx.x} * kTile;
  const Part<T> part = body.part(group);
  const int my_row = static_cast<int>(threadIdx.x) / kThreads * kMine,
            my_column = static_cast<int>(threadIdx.x) % kThreads * kMine;
  for (Index first_row = Index{blockIdx.y} * kTile; first_row < part.rows;
       first_row += Index{gridDim.y} * kTile) {
    T sums[kMine][kMine] = {}, left_sums[kMine] = {};
    for (Index depth = 0; depth < part.depth; depth += kDepth) {
      __syncthreads();  // all threads have read the previous tiles
      load_tile(part.left, first_row, part.rows, depth, part.depth, left);
      load_tile(part.right, first_column, part.columns, depth, part.depth, right);
      __syncthreads();
      for (int d = 0; d < kDepth; ++d) {
        const Pack<T, kMine> a = load<kMine>(&left[d][my_row]), b = load<kMine>(&right[d][my_column]);
        for (int i = 0; i < kMine; ++i) {
          if constexpr (kAddLeft) left_sums[i] += a.at[i];
          for (int j = 0; j < kMine; ++j) sums[i][j] += a.at[i] * b.at[j];
        }
      }
    }
    for (int i = 0; i < kMine; ++i) {
      const Index row = first_row + my_row + i;
      if (row >= part.rows) break;
      for (int j = 0; j < kMine; ++j)
        if (const Index column = first_column + my_column + j; column < part.columns)
          body.write(group, row, column, sums[i][j]);
      if constexpr (kAddLeft)
        if (first_column + my_column == 0) body.add_left(group, row, left_sums[i]);
    }
  }
}

template <class T, Activation kActivation>
struct Linear {
  Groups groups;
  Index in, out;
  const T *x, *weight, *bias;
  T *y, *derivative;

  __device__ Part<T> part(Index g) const {
    const T *rows = x + groups.offsets[g] * in, *weights = weight + (groups.first + g) * out * in;
    return {groups.rows(g), out, in, {rows, in, 1}, {weights, in, 1}};
  }
  __device__ void write(Index g, Index row, Index column, T sum) const {
    const Index at = (groups.offsets[g] + row) * out + column;
    if (bias) sum += bias[(groups.first + g) * out + column];
    T slope;
    y[at] = activated<kActivation>(sum, slope);
    if (derivative) derivative[at] = slope;
  }
};

template <class T>
struct BackwardInput {
  Groups groups;
  Index in, out;
  const T *dz, *weight;
  T* dx;
  Write mode;

  __device__ Part<T> part(Index g) const {
    const T *rows = dz + groups.offsets[g] * out, *weights = weight + (groups.first + g) * out * in;
    return {groups.rows(g), in, out, {rows, out, 1}, {weights, 1, in}};
  }
  __device__ void write(Index g, Index row, Index column, T sum) const {
    write_pack<1>(dx + (groups.offsets[g] + row) * in + column, Pack<T, 1>{{sum}}, mode);
  }
};

template <class T>
struct BackwardParameters {
  Groups groups;
  Index in, out;
  const T *dz, *x;
  T *dweight, *dbias;

  __device__ Part<T> part(Index g) const {
    const Index first = groups.offsets[g], rows = groups.rows(g);
    return {rows > 0 ? out : 0, in, rows, {dz + first * out, 1, out}, {x + first * in, 1, in}};
  }
  __device__ void write(Index g, Index row, Index column, T sum) const {
    dweight[((groups.first + g) * out + row) * in + column] += sum;
  }
  __device__ void add_left(Index g, Index row, T sum) const {
    if (dbias) dbias[(groups.first + g) * out + row] += sum;
  }
};

// `rows` and `columns` are those of the largest group's result.
template <class T, class Body>
void grouped_product(const char* operation, Index rows, Index columns, const Body& body) {
  constexpr Index kMostTiles = 65535;  // of a grid's second dimension
  launch(operation, grouped_product_kernel<T, Body>,
         {.grid = dim3(static_cast<unsigned>((columns + kTile - 1) / kTile),
                       static_cast<unsigned>(std::min((rows + kTile - 1) / kTile, kMostTiles)),
                       static_cast<unsigned>(body.groups.count)),
          .block = dim3(kBlock)},
         body);
}

// Whether to use this kernel although cuBLASLt's products are faster, above all on tensor cores: each of
// those costs some 5 us to start, however small its group. In this kernel, a group of at most a tile's rows
// and kFewWeights weights takes 4 us of an H200 forward, 5 and 6 backward (cuda_measured.tsv).
bool small_groups(RowOffsets offsets, Index in, Index out) {
  constexpr Index kFewWeights = Index{1} << 19;
  return offsets.size() > 2 && in * out > 0 && in * out <= kFewWeights && largest_group(offsets) <= kTile;
}

}  // namespace

void matmul(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b, const Tensor& c,
            Write write) {
  const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
  // The stride of a single row does not matter, and may have any value.
  const auto stride = [](const Tensor& matrix) {
    return matrix.size(0) > 1 ? matrix.stride(0) : std::max<Index>(matrix.size(1), 1);
  };
  for_floating(a.dtype(), "matmul", [&]<class T>(T) {
    const auto matrix = [&](const Tensor& tensor) {
      return Matrix<T>{tensor.data<T>(), tensor.size(0), tensor.size(1), stride(tensor)};
    };
    multiplied("matmul", matrix(a), matrix(b), [&]<class S>(const Matrix<S>& left, const Matrix<S>& right) {
      multiply("matmul", MatrixProduct<S, T>{.m = c.size(0),
                                             .n = c.size(1),
                                             .k = a.size(ta ? 0 : 1),
                                             .a = left.from(0, ta),
                                             .b = right.from(0, tb),
                                             .c = c.data<T>(),
                                             .c_stride = stride(c),
                                             .accumulate = write == Write::accumulate});
    });
  });
}

void grouped_linear(const Tensor& x, RowOffsets offsets, const Tensor& weight, const Tensor& bias,
                    Activation kind, const Tensor& y, const Tensor& derivative, RowBits bits) {
  const Index in = x.size(1), out = weight.size(1);
  if (y.numel() == 0) return;
  for_floating(x.dtype(), "linear", [&]<class T>(T) {
    const T *px = x.data<T>(), *pw = weight.data<T>(), *pb = bias.defined() ? bias.data<T>() : nullptr;
    T *py = y.data<T>(), *pd = derivative.defined() ? derivative.data<T>() : nullptr;
    if (bits == RowBits::independent || small_groups(offsets, in, out)) {
      const Index rows = largest_group(offsets);
      for_runs(offsets, [&](const Groups& run) {
        for_activation(kind, [&]<Activation kActivation>() {
          grouped_product<T>("linear", rows, out, Linear<T, kActivation>{run, in, out, px, pw, pb, py, pd});
        });
      });
      return;
    }
    const bool alone = !pb && !pd && kind == Activation::none;  // nothing follows the product
    // Every group's bias must be aligned to 16 bytes.
    const bool by_library = std::is_same_v<T, float> && pb && !pd && kind == Activation::none && in > 0 &&
                            aligned({pb}) && out % kPackWidth<T> == 0;
    multiplied("linear", Matrix<T>{px, x.size(0), in, in}, Matrix<T>{pw, weight.size(0) * out, in, in},
               [&]<class S>(const Matrix<S>& inputs, const Matrix<S>& weights) {
                 for_groups(offsets, [&](Index group, Index first, Index rows) {
                   multiply("linear", MatrixProduct<S, T>{.m = rows,
                                                          .n = out,
                                                          .k = in,
                                                          .a = inputs.from(first),
                                                          .b = weights.from(group * out, true),
                                                          .c = py + first * out,
                                                          .c_stride = out,
                                                          .bias = by_library ? pb + group * out : nullptr});
                 });
               });
    if (!alone && !by_library) finish<T>(offsets, bias, kind, y, derivative);
  });
}

void grouped_linear_backward_input(const Tensor& dz, RowOffsets offsets, const Tensor& weight,
                                   const Tensor& dx, Write write) {
  const Index in = weight.size(2), out = weight.size(1);
  if (dx.numel() == 0) return;
  for_floating(dz.dtype(), "linear backward", [&]<class T>(T) {
    const T *pdz = dz.data<T>(), *pw = weight.data<T>();
    T* pdx = dx.data<T>();
    if (small_groups(offsets, in, out)) {
      const Index rows = largest_group(offsets);
      for_runs(offsets, [&](const Groups& run) {
        grouped_product<T>("linear backward", rows, in, BackwardInput<T>{run, in, out, pdz, pw, pdx, write});
      });
      return;
    }
    multiplied("linear backward", Matrix<T>{pdz, dz.size(0), out, out},
               Matrix<T>{pw, weight.size(0) * out, in, in},
               [&]<class S>(const Matrix<S>& gradients, const Matrix<S>& weights) {
                 for_groups(offsets, [&](Index group, Index first, Index rows) {
                   multiply("linear backward", MatrixProduct<S, T>{.m = rows,
                                                                   .n = in,
                                                                   .k = out,
                                                                   .a = gradients.from(first),
                                                                   .b = weights.from(group * out),
                                                                   .c = pdx + first * in,
                                                                   .c_stride = in,
                                                                   .accumulate = write == Write::accumulate});
                 });
               });
  });
}

void grouped_linear_backward_parameters(const Tensor& dz, const Tensor& x, RowOffsets offsets,
                                        const Tensor& dweight, const Tensor& dbias) {
  const Index in = dweight.size(2), out = dweight.size(1);
  for_floating(dz.dtype(), "linear backward", [&]<class T>(T) {
    const T *pdz = dz.data<T>(), *px = x.data<T>();
    T *pdw = dweight.data<T>(), *pdb = dbias.defined() ? dbias.data<T>() : nullptr;
    if (small_groups(offsets, in, out)) {
      for_runs(offsets, [&](const Groups& run) {
        grouped_product<T>("linear backward", out, in,
                           BackwardParameters<T>{run, in, out, pdz, px, pdw, pdb});
      });
      return;
    }
    // The product's pass over dz can also give its column sums, if dz is f32 and not rounded. They overwrite
    // their destination, so they go to scratch first.
    const bool by_library = pdb && std::is_same_v<T, float> && precision() == Precision::f32;
    multiplied("linear backward", Matrix<T>{pdz, dz.size(0), out, out}, Matrix<T>{px, x.size(0), in, in},
               [&]<class S>(const Matrix<S>& gradients, const Matrix<S>& inputs) {
                 for_groups(offsets, [&](Index group, Index first, Index rows) {
                   Scratch scratch;
                   T* const sums = by_library ? scratch.array<T>(out) : nullptr;
                   const bool summed =
                       multiply("linear backward", MatrixProduct<S, T>{.m = out,
                                                                       .n = in,
                                                                       .k = rows,
                                                                       .a = gradients.from(first, true),
                                                                       .b = inputs.from(first),
                                                                       .c = pdw + group * out * in,
                                                                       .c_stride = in,
                                                                       .accumulate = true,
                                                                       .row_sums = sums});
                   if (!pdb) return;
                   const Tensor to = dbias.rows(group, group + 1);
                   if (summed)
                     add(to, Tensor::borrow(sums, to.shape(), to.dtype(), Device::cuda), to);
                   else
                     column_sums(dz.rows(first, first + rows), to);
                 });
               });
  });
}

}  // namespace conclave::kernels::cuda

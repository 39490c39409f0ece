#include <limits>

#include "core/kernels/cuda_kernel.h"
#include "core/kernels/softmax.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels::cuda {
namespace {

template <class T>
constexpr T kLeastFinite = std::numeric_limits<T>::lowest();

// The largest of the elements that a thread (after combine(), its team) has seen, and the sum of exp(. -
// largest). If a thread has seen -inf only, its sum counts nothing beside a larger element of another thread.
// If no element is larger, the sum is NaN, as on the CPU.
template <class T>
struct Exponentials {
  T largest = -static_cast<T>(__builtin_inff()), sum = 0;

  template <int kWidth>
  __device__ void add(const Pack<T, kWidth>& value) {
    T now = largest;
    for (int j = 0; j < kWidth; ++j) now = now < value.at[j] ? value.at[j] : now;
    if (now > largest) sum *= vector_exp(largest - now);
    largest = now;
    const T finite = now < kLeastFinite<T> ? kLeastFinite<T> : now;
    for (int j = 0; j < kWidth; ++j) sum += vector_exp(value.at[j] - finite);
  }
  template <int kTeam>
  __device__ void combine() {
    const T of_all = team_max<kTeam>(largest);
    sum *= vector_exp(largest - of_all);
    largest = of_all;
    sum = team_sum<kTeam>(sum);
  }
};

// Writes softmax(in) to out and returns log sum exp, to every thread of the team. `in` is read twice, because
// it may be too long for any cache; visit(i, pack) is called with the thread's packs.
template <int kWidth, int kTeam, class T, class Visit>
__device__ T softmax_row(const T* in, T* out, Index columns, T& largest, Visit visit) {
  Exponentials<T> of;
  for_columns<kWidth, kTeam>(columns, [&](Index i) {
    const Pack<T, kWidth> value = load<kWidth>(in + i);
    visit(i, value);
    of.add(value);
  });
  of.template combine<kTeam>();
  largest = of.largest;
  const T inverse = T(1) / of.sum;
  for_columns<kWidth, kTeam>(columns, [&](Index i) {
    Pack<T, kWidth> value = load<kWidth>(in + i);
    for (int j = 0; j < kWidth; ++j) value.at[j] = softmax_exp(value.at[j] - largest) * inverse;
    store<kWidth>(out + i, value);
  });
  return largest + std::log(of.sum);
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    softmax_kernel(Index rows, Index columns, const T* x, T* y, T* lse) {
  for_team_rows(rows, [&](Index row) {
    T largest;
    const T value = softmax_row<kWidth, kTeam>(x + row * columns, y + row * columns, columns, largest,
                                               [](Index, const Pack<T, kWidth>&) {});
    if (lse && threadIdx.x == 0) lse[row] = value;
  });
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    softmax_backward_kernel(Index rows, Index columns, const T* dy, const T* y, T* dx, Write mode) {
  for_team_rows(rows, [&](Index row) {
    const T *up = dy + row * columns, *p = y + row * columns;
    T dot = 0;
    for_columns<kWidth, kTeam>(columns, [&](Index i) {
      const Pack<T, kWidth> a = load<kWidth>(up + i), b = load<kWidth>(p + i);
      for (int j = 0; j < kWidth; ++j) dot += a.at[j] * b.at[j];
    });
    dot = team_sum<kTeam>(dot);
    for_columns<kWidth, kTeam>(columns, [&](Index i) {
      const Pack<T, kWidth> a = load<kWidth>(up + i);
      Pack<T, kWidth> value = load<kWidth>(p + i);
      for (int j = 0; j < kWidth; ++j) value.at[j] *= a.at[j] - dot;
      write_pack<kWidth>(dx + row * columns + i, value, mode);
    });
  });
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    cross_entropy_kernel(Index rows, Index classes, const T* logits, const std::int32_t* labels, T smoothing,
                         T* losses, T* probabilities, std::uint8_t* correct) {
  for_team_rows(rows, [&](Index row) {
    const T* in = logits + row * classes;
    // The first class with the largest logit, or `classes` if this thread saw none.
    Index best = classes;
    T best_logit = -static_cast<T>(__builtin_inff()), largest, sum = 0;
    const T lse = softmax_row<kWidth, kTeam>(
        in, probabilities + row * classes, classes, largest, [&](Index i, const Pack<T, kWidth>& value) {
          for (int j = 0; j < kWidth; ++j) {
            sum += value.at[j];
            if (value.at[j] > best_logit || (value.at[j] == best_logit && i + j < best)) {
              best_logit = value.at[j];
              best = i + j;
            }
          }
        });
    if (best_logit != largest) best = classes;
    sum = team_sum<kTeam>(sum);
    best = team_reduce<kTeam>(best, [](Index a, Index b) { return a < b ? a : b; });
    if (threadIdx.x != 0) return;
    const Index label = labels[row];
    const T target = label >= 0 && label < classes ? in[label] : not_a_number<T>();
    const T smoothed = smoothing > T(0) ? smoothing / static_cast<T>(classes) * sum : T(0);
    losses[row] = lse - (T(1) - smoothing) * target - smoothed;
    correct[row] = lse == lse && best == label;
  });
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    cross_entropy_backward_kernel(Index rows, Index classes, const T* dlosses, const T* probabilities,
                                  const std::int32_t* labels, T smoothing, T* dlogits, Write mode) {
  const T rest = smoothing / static_cast<T>(classes);
  for_team_rows(rows, [&](Index row) {
    const T up = dlosses[row];
    const Index label = labels[row];
    for_columns<kWidth, kTeam>(classes, [&](Index i) {
      Pack<T, kWidth> value = load<kWidth>(probabilities + row * classes + i);
      for (int j = 0; j < kWidth; ++j)
        value.at[j] = up * (value.at[j] - rest - (i + j == label ? T(1) - smoothing : T(0)));
      write_pack<kWidth>(dlogits + row * classes + i, value, mode);
    });
  });
}

}  // namespace

void softmax(const Tensor& x, const Tensor& y, const Tensor& lse) {
  const Index rows = x.size(0), columns = x.size(1);
  if (rows == 0) return;
  for_floating(x.dtype(), "softmax", [&]<class T>(T) {
    for_team<T>(columns, {x.raw(), y.raw()}, [&]<int kWidth, int kTeam>() {
      launch("softmax", softmax_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows, columns, x.data<T>(),
             y.data<T>(), lse.defined() ? lse.data<T>() : nullptr);
    });
  });
}

void softmax_backward(const Tensor& dy, const Tensor& y, const Tensor& dx, Write write) {
  const Index rows = y.size(0), columns = y.size(1);
  if (rows == 0) return;
  for_floating(y.dtype(), "softmax backward", [&]<class T>(T) {
    for_team<T>(columns, {dy.raw(), y.raw(), dx.raw()}, [&]<int kWidth, int kTeam>() {
      launch("softmax backward", softmax_backward_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows,
             columns, dy.data<T>(), y.data<T>(), dx.data<T>(), write);
    });
  });
}

void cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing, const Tensor& losses,
                   const Tensor& probabilities, const Tensor& correct) {
  const Index rows = logits.size(0), classes = logits.size(1);
  if (rows == 0) return;
  for_floating(logits.dtype(), "cross_entropy", [&]<class T>(T) {
    for_team<T>(classes, {logits.raw(), probabilities.raw()}, [&]<int kWidth, int kTeam>() {
      launch("cross_entropy", cross_entropy_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows, classes,
             logits.data<T>(), labels.data<std::int32_t>(), static_cast<T>(smoothing), losses.data<T>(),
             probabilities.data<T>(), correct.data<std::uint8_t>());
    });
  });
}

void cross_entropy_backward(const Tensor& dlosses, const Tensor& probabilities, const Tensor& labels,
                            double smoothing, const Tensor& dlogits, Write write) {
  const Index rows = probabilities.size(0), classes = probabilities.size(1);
  if (rows == 0) return;
  for_floating(probabilities.dtype(), "cross_entropy backward", [&]<class T>(T) {
    for_team<T>(classes, {probabilities.raw(), dlogits.raw()}, [&]<int kWidth, int kTeam>() {
      launch("cross_entropy backward", cross_entropy_backward_kernel<T, kWidth, kTeam>,
             team_shape<kTeam>(rows), rows, classes, dlosses.data<T>(), probabilities.data<T>(),
             labels.data<std::int32_t>(), static_cast<T>(smoothing), dlogits.data<T>(), write);
    });
  });
}

}  // namespace conclave::kernels::cuda

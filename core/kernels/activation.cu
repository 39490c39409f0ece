#include "core/cuda/scratch.h"
#include "core/cuda/upload.h"
#include "core/kernels/activated.h"
#include "core/kernels/activation.h"
#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {
namespace {

template <class T, Activation kActivation>
struct Activate {
  const T* x;
  T *y, *derivative;
  template <int kWidth>
  __device__ void at(Index i) const {
    Pack<T, kWidth> value = load<kWidth>(x + i), slope;
    for (int j = 0; j < kWidth; ++j) value.at[j] = activated<kActivation>(value.at[j], slope.at[j]);
    store<kWidth>(y + i, value);
    if (derivative) store<kWidth>(derivative + i, slope);
  }
};

template <class T, Activation kActivation>
void activate(const Tensor& x, const Tensor& y, const Tensor& derivative) {
  const Activate<T, kActivation> body{x.data<T>(), y.data<T>(),
                                      derivative.defined() ? derivative.data<T>() : nullptr};
  for_flat<T>("activation", x.numel(), {body.x, body.y, body.derivative}, body);
}

template <class T>
struct Multiply {
  const T *a, *b;
  T* c;
  Write mode;
  template <int kWidth>
  __device__ void at(Index i) const {
    Pack<T, kWidth> value = load<kWidth>(a + i);
    const Pack<T, kWidth> factor = load<kWidth>(b + i);
    for (int j = 0; j < kWidth; ++j) value.at[j] *= factor.at[j];
    write_pack<kWidth>(c + i, value, mode);
  }
};

template <class T>
struct Add {
  const T *a, *b;
  T* c;
  template <int kWidth>
  __device__ void at(Index i) const {
    Pack<T, kWidth> value = load<kWidth>(a + i);
    const Pack<T, kWidth> other = load<kWidth>(b + i);
    for (int j = 0; j < kWidth; ++j) value.at[j] += other.at[j];
    store<kWidth>(c + i, value);
  }
};

template <class T>
struct Scale {
  const T* a;
  T factor;
  T* c;
  Write mode;
  template <int kWidth>
  __device__ void at(Index i) const {
    Pack<T, kWidth> value = load<kWidth>(a + i);
    for (int j = 0; j < kWidth; ++j) value.at[j] *= factor;
    write_pack<kWidth>(c + i, value, mode);
  }
};

template <class T, int kPack>
struct ScaleRows {
  Index columns;
  const double* factors;
  T* x;
  template <int>
  __device__ void at(Index pack) const {
    const Index i = pack * kPack;
    const T factor = static_cast<T>(factors[i / columns]);
    Pack<T, kPack> value = load<kPack>(x + i);
    for (int j = 0; j < kPack; ++j) value.at[j] *= factor;
    store<kPack>(x + i, value);
  }
};

template <class T>
struct Swap {
  T *a, *b;
  template <int kWidth>
  __device__ void at(Index i) const {
    const Pack<T, kWidth> value = load<kWidth>(a + i);
    store<kWidth>(a + i, load<kWidth>(b + i));
    store<kWidth>(b + i, value);
  }
};

}  // namespace

void activation(const Tensor& x, Activation activation, const Tensor& y, const Tensor& derivative) {
  for_floating(x.dtype(), "activation", [&]<class T>(T) {
    for_activation(activation, [&]<Activation kActivation>() { activate<T, kActivation>(x, y, derivative); });
  });
}

void multiply(const Tensor& a, const Tensor& b, const Tensor& c, Write write) {
  for_floating(a.dtype(), "multiply", [&]<class T>(T) {
    const Multiply<T> body{a.data<T>(), b.data<T>(), c.data<T>(), write};
    for_flat<T>("multiply", a.numel(), {body.a, body.b, body.c}, body);
  });
}

void add(const Tensor& a, const Tensor& b, const Tensor& c) {
  for_floating(a.dtype(), "add", [&]<class T>(T) {
    const Add<T> body{a.data<T>(), b.data<T>(), c.data<T>()};
    for_flat<T>("add", a.numel(), {body.a, body.b, body.c}, body);
  });
}

void scale(const Tensor& a, double factor, const Tensor& c, Write write) {
  for_floating(a.dtype(), "scale", [&]<class T>(T) {
    const Scale<T> body{a.data<T>(), static_cast<T>(factor), c.data<T>(), write};
    for_flat<T>("scale", a.numel(), {body.a, body.c}, body);
  });
}

void scale_rows(const Tensor& x, std::span<const double> factors) {
  if (x.numel() == 0) return;
  const Index rows = x.size(0), columns = x.numel() / rows;
  conclave::cuda::Scratch scratch;
  auto* const on_device = scratch.array<double>(rows);
  conclave::cuda::upload("scale_rows", factors, on_device);
  for_floating(x.dtype(), "scale_rows", [&]<class T>(T) {
    for_width<T>(columns, {x.raw()}, [&]<int kWidth>() {
      for_items("scale_rows", x.numel() / kWidth, ScaleRows<T, kWidth>{columns, on_device, x.data<T>()});
    });
  });
}

void swap(const Tensor& a, const Tensor& b) {
  for_floating(a.dtype(), "swap", [&]<class T>(T) {
    const Swap<T> body{a.data<T>(), b.data<T>()};
    for_flat<T>("swap", a.numel(), {body.a, body.b}, body);
  });
}

}  // namespace conclave::kernels::cuda

#include "core/kernels/convolution.h"

#include "core/cuda/dnn.h"
#include "core/kernels/channels.h"
#include "core/kernels/reduction.h"

namespace conclave::kernels::cuda {
namespace {

using conclave::cuda::Convolution;

template <class T>
Convolution<T> convolution_of(const Tensor& x, const Tensor& weight, const Window& window, const Tensor& y,
                              Write write) {
  return {.images = x.size(0),
          .height = x.size(1),
          .width = x.size(2),
          .in = x.size(3),
          .out_height = y.size(1),
          .out_width = y.size(2),
          .out = y.size(3),
          .size = window.size,
          .stride = window.stride,
          .padding = window.padding,
          .x = x.data<T>(),
          .weight = weight.data<T>(),
          .y = y.data<T>(),
          .accumulate = write == Write::accumulate};
}

}  // namespace

void convolution(const Tensor& x, const Tensor& weight, const Tensor& bias, const Window& window,
                 Activation activation, const Tensor& y, const Tensor& derivative, RowBits bits) {
  if (y.numel() == 0) return;
  if (x.numel() == 0)  // no channels
    y.zero();
  else
    for_floating(x.dtype(), "convolution", [&]<class T>(T) {
      Convolution<T> all = convolution_of<T>(x, weight, window, y, Write::assign);
      all.rounded = bits == RowBits::fastest;
      convolve("convolution", all);
    });
  if (bias.defined() || derivative.defined() || activation != Activation::none)
    scale_channels(y, {}, {}, bias.defined() ? bias.reshape({1, bias.size(0)}) : bias, activation, y,
                   derivative);
}

void convolution_backward_input(const Tensor& dz, const Tensor& weight, const Window& window,
                                const Tensor& dx, Write write) {
  if (dx.numel() > 0 && dz.numel() > 0)
    for_floating(dx.dtype(), "convolution backward", [&]<class T>(T) {
      convolve_backward_input("convolution backward", convolution_of<T>(dx, weight, window, dz, write));
    });
  else if (write == Write::assign)
    dx.zero();
}

void convolution_backward_parameters(const Tensor& dz, const Tensor& x, const Window& window,
                                     const Tensor& dweight, const Tensor& dbias) {
  if (x.numel() > 0 && dz.numel() > 0)
    for_floating(x.dtype(), "convolution backward", [&]<class T>(T) {
      convolve_backward_weight("convolution backward",
                               convolution_of<T>(x, dweight, window, dz, Write::accumulate));
    });
  if (dbias.defined()) column_sums(dz.reshape({dz.size(0) * dz.size(1) * dz.size(2), dz.size(3)}), dbias);
}

}  // namespace conclave::kernels::cuda

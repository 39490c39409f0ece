#include "autograd/functions/accumulator.h"
#include "autograd/functions/functions.h"
#include "autograd/functions/panels.h"
#include "core/kernels/activation.h"
#include "core/kernels/channels.h"
#include "core/kernels/convolution.h"
#include "core/kernels/depthwise.h"
#include "core/kernels/image_norm.h"
#include "core/kernels/reduction.h"

namespace conclave::functions {
namespace {

// Calls each(segment, its first image, the end of its images) in parallel.
template <class Each>
void for_segments(const ExampleRows& rows, Each each) {
#pragma omp parallel for schedule(dynamic)
  for (Index s = 0; s < rows.segments.count(); ++s) each(s, rows.segments.begin(s), rows.segments.end(s));
}

Tensor of_segment(const Tensor& values, Index segment, const Tensor& like) {
  return values.rows(segment, segment + 1).reshape(like.shape());
}

// Scratch memory for each thread.
class ThreadScratch {
 public:
  ThreadScratch(Tape& tape, const Shape& shape, DType dtype) : shape_(shape) {
    const Index threads = omp_get_max_threads();
    all_ = tape.empty({threads, shape.numel()}, dtype);
  }
  Tensor mine() const {
    const Index thread = omp_get_thread_num();
    return all_.rows(thread, thread + 1).reshape(shape_);
  }

 private:
  Shape shape_;
  Tensor all_;
};

// Notes the weights' gradients of each example: for usual convolutions they are smaller than the output's
// gradient.
void convolution_apart(Tape& tape, const ExampleRows& rows, const Tensor& dz, const Tensor& x,
                       const kernels::Window& window, const Tensor& weight, const Tensor& bias,
                       const Tensor& spare) {
  ExampleGradients& gradients = *rows.gradients;
  const Tensor dweight = gradients.room_for(rows, weight.shape(), x.dtype(), spare),
               dbias = bias.defined() ? gradients.room_for(rows, bias.shape(), x.dtype(), Tensor()) : bias;
  dweight.zero();
  if (dbias.defined()) dbias.zero();
  {
    const ArenaScope scope(tape.arena());
    const ThreadScratch scratch(
        tape, {kernels::convolution_scratch(x.rows(0, std::min<Index>(x.size(0), 1)), window)}, x.dtype());
    for_segments(rows, [&](Index s, Index begin, Index end) {
      for (Index image = begin; image < end; ++image)
        kernels::convolution_backward_parameters(
            dz.rows(image, image + 1), x.rows(image, image + 1), window, of_segment(dweight, s, weight),
            bias.defined() ? of_segment(dbias, s, bias) : bias, scratch.mine());
    });
  }
  gradients.gradients(rows, weight, dweight);
  if (bias.defined()) gradients.gradients(rows, bias, dbias);
}

void depthwise_apart(Tape& tape, const ExampleRows& rows, const Tensor& dy, const Tensor& x,
                     const kernels::Window& window, const Tensor& weight, const Tensor& spare) {
  const Tensor dweight = rows.gradients->room_for(rows, weight.shape(), x.dtype(), spare);
  dweight.zero();
  {
    const ArenaScope scope(tape.arena());
    const ThreadScratch scratch(tape, {1, window.size, window.size, x.size(3)}, x.dtype());
    for_segments(rows, [&](Index s, Index begin, Index end) {
      for (Index image = begin; image < end; ++image)
        kernels::depthwise_backward_weight(dy.rows(image, image + 1), x.rows(image, image + 1), window,
                                           of_segment(dweight, s, weight), scratch.mine());
    });
  }
  rows.gradients->gradients(rows, weight, dweight);
}

}  // namespace

Tensor convolution(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
                   const kernels::Window& window, Activation activation) {
  require(weight.rank() == 4, "convolution: weight {} must be [out, size, size, in]", weight.shape());
  Tensor y = tape.output(kernels::window_shape("convolution", x, window, weight.size(0)), x.dtype(),
                         {&x, &weight, &bias});
  const Tensor derivative =
      y.slot && activation != Activation::none ? tape.empty(y.shape(), y.dtype()) : Tensor();
  const auto scratch = [x, window](Tape& tape) {
    return tape.empty({kernels::convolution_scratch(x, window)}, x.dtype());
  };
  {
    const ArenaScope scope(tape.arena());
    // RowBits as in linear(), for the reason given there.
    const Tensor matrix =
        reshape(weight, {1, weight.size(0), weight.size(1) * weight.size(2) * weight.size(3)});
    kernels::convolution(x, weight, bias, window, activation, y, derivative, scratch(tape),
                         tape.recording() ? kernels::RowBits::fastest : kernels::RowBits::independent,
                         panels_of(tape, matrix));
  }
  const ExampleRows apart = tape.examples_of("convolution", x.size(0), {&weight, &bias});
  tape.record("convolution", {&x, &weight, &bias}, {&y}, [=](Tape& tape) {
    const Tensor dz = tape.gradient(y);  // becomes the gradient at the pre-activation
    if (derivative.defined()) kernels::multiply(dz, derivative, dz);
    const auto dx = x.slot ? tape.into(x) : GradientTarget();
    if (apart) {
      if (x.slot) {
        const ArenaScope scope(tape.arena());
        kernels::convolution_backward_input(dz, weight, window, dx.gradient, dx.write, scratch(tape));
      }
      return convolution_apart(tape, apart, dz, x, window, weight, bias, y);
    }
    const Tensor dweight = accumulator(tape, weight), dbias = accumulator(tape, bias);
    const ArenaScope scope(tape.arena());
    const Tensor memory = scratch(tape);
    if (x.slot) kernels::convolution_backward_input(dz, weight, window, dx.gradient, dx.write, memory);
    if (weight.slot)
      kernels::convolution_backward_parameters(dz, x, window, dweight, dbias, memory);
    else if (bias.slot)
      kernels::column_sums(dz.reshape({dz.numel() / dz.size(3), dz.size(3)}), dbias);
  });
  return y;
}

Tensor depthwise(Tape& tape, const Tensor& x, const Tensor& weight, const kernels::Window& window,
                 const Tensor& bias, Activation activation) {
  Tensor y = tape.output(kernels::window_shape("depthwise", x, window, x.rank() == 4 ? x.size(3) : 0),
                         x.dtype(), {&x, &weight});
  require(!y.slot || (!bias.defined() && activation == Activation::none),
          "depthwise: bias and activation have no gradient; pass them only to tapes that do not record");
  kernels::depthwise(x, weight, window, y, bias, activation);
  const ExampleRows apart = tape.examples_of("depthwise", x.size(0), {&weight});
  tape.record("depthwise", {&x, &weight}, {&y}, [=](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    if (x.slot) {
      const auto [dx, write] = tape.into(x);
      kernels::depthwise_backward_input(dy, weight, window, dx, write);
    }
    if (!weight.slot) return;
    if (apart) return depthwise_apart(tape, apart, dy, x, window, weight, y);
    const Tensor dweight = accumulator(tape, weight);
    const ArenaScope scope(tape.arena());
    kernels::depthwise_backward_weight(
        dy, x, window, dweight,
        tape.empty({kernels::depthwise_parts(x.size(0)), window.size, window.size, x.size(3)}, x.dtype()));
  });
  return y;
}

namespace {

// Pixels per image, also if there are no images.
Index pixels_of(const Tensor& x) {
  Index pixels = 1;
  for (Index d = 1; d + 1 < x.rank(); ++d) pixels *= x.size(d);
  return pixels;
}

// The common part of the normalizations: y, and the gradient of x by tables that `tables` computes from
// channel_dots' results.
struct Scaled {
  Tensor x, y, centre;
  kernels::ScaledBy by;

  Scaled(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& centre,
         const Tensor& factor, Activation activation)
      : x(x),
        y(tape.output(x.shape(), x.dtype(), {&x, &gamma, &beta})),
        centre(centre),
        by{factor, beta.reshape({1, beta.size(0)}), activation} {
    kernels::scale_channels(x, centre, factor, by.addend, activation, y, Tensor());
  }

  template <class Tables>
  void backward(Tape& tape, Index rows_of_table, Tables tables) const {
    const Tensor dz = tape.gradient(y);  // channel_dots makes it the gradient at the pre-activation
    const auto dx = x.slot ? tape.into(x) : GradientTarget();
    const ArenaScope scope(tape.arena());
    const Shape by_image{x.size(0), x.size(x.rank() - 1)}, table{rows_of_table, by_image[1]};
    const Tensor sums = tape.empty(by_image, x.dtype()), dots = tape.empty(by_image, x.dtype()),
                 slope = tape.empty(table, x.dtype()), addend = tape.empty(table, x.dtype());
    kernels::channel_dots(dz, x, centre, sums, dots, by);
    tables(sums, dots, slope, addend);
    if (x.slot)
      kernels::scale_channels_backward(dz, x, centre, by.factor, slope, addend, dx.gradient, dx.write);
  }
};

// accumulator(), or scratch memory if `parameter` has no slot.
Tensor accumulator_or_scratch(Tape& tape, const Tensor& parameter) {
  const Tensor gradient = accumulator(tape, parameter);
  return gradient.defined() ? gradient : tape.empty(parameter.shape(), parameter.dtype());
}

}  // namespace

Tensor group_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta, Index groups,
                  double epsilon, Activation activation) {
  require(x.rank() >= 2, "group_norm: x {} must be [images, ..., channels]", x.shape());
  const Shape table{x.size(0), x.size(x.rank() - 1)};
  const Index pixels = pixels_of(x);
  const Tensor centre = tape.empty(table, x.dtype()), rstd = tape.empty(table, x.dtype()),
               factor = tape.empty(table, x.dtype());
  {
    const ArenaScope scope(tape.arena());
    const Tensor mean = tape.empty(table, x.dtype()), squares = tape.empty(table, x.dtype());
    kernels::channel_moments(x, mean, squares);
    kernels::group_norm_table(mean, squares, pixels, groups, epsilon, gamma, centre, rstd, factor);
  }
  const Scaled scaled(tape, x, gamma, beta, centre, factor, activation);
  const ExampleRows apart = tape.examples_of("group_norm", x.size(0), {&gamma, &beta});
  tape.record("group_norm", {&x, &gamma, &beta}, {&scaled.y}, [=](Tape& tape) {
    if (apart) {
      const auto room = [&] { return apart.gradients->room_for(apart, gamma.shape(), x.dtype(), Tensor()); };
      const Tensor dgamma = room(), dbeta = room();
      for (const Tensor& values : {dgamma, dbeta}) values.zero();
      scaled.backward(tape, x.size(0),
                      [&](const Tensor& sums, const Tensor& dots, const Tensor& slope, const Tensor& addend) {
                        for_segments(apart, [&](Index s, Index begin, Index end) {
                          const auto part = [&](const Tensor& all) { return all.rows(begin, end); };
                          kernels::group_norm_backward_table(
                              part(sums), part(dots), pixels, groups, gamma, part(rstd), part(slope),
                              part(addend), of_segment(dgamma, s, gamma), of_segment(dbeta, s, beta));
                        });
                      });
      apart.gradients->gradients(apart, gamma, dgamma);
      return apart.gradients->gradients(apart, beta, dbeta);
    }
    const Tensor dgamma = accumulator_or_scratch(tape, gamma), dbeta = accumulator_or_scratch(tape, beta);
    scaled.backward(tape, x.size(0),
                    [&](const Tensor& sums, const Tensor& dots, const Tensor& slope, const Tensor& addend) {
                      kernels::group_norm_backward_table(sums, dots, pixels, groups, gamma, rstd, slope,
                                                         addend, dgamma, dbeta);
                    });
  });
  return scaled.y;
}

Tensor batch_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                  const BatchNormState& state, bool training, Activation activation) {
  require(x.rank() >= 2, "batch_norm: x {} must be [images, ..., channels]", x.shape());
  const Index channels = x.size(x.rank() - 1), pixels = pixels_of(x);
  const Shape by_image{x.size(0), channels}, table{1, channels}, pair{2, channels};
  const Tensor centre = tape.empty(table, x.dtype()), rstd = tape.empty(table, x.dtype()),
               factor = tape.empty(table, x.dtype());
  const double count =
      static_cast<double>(pixels) * static_cast<double>(state.images > 0 ? state.images : x.size(0));
  const bool of_batch = training && count > 0;  // without images, a batch has no statistics
  if (of_batch) {
    const ArenaScope scope(tape.arena());
    const Tensor mean = tape.empty(by_image, x.dtype()), squares = tape.empty(by_image, x.dtype()),
                 totals = tape.empty(pair, DType::f64);
    kernels::channel_moments(x, mean, squares);
    kernels::batch_norm_totals(mean, squares, pixels, totals);
    if (state.add_up) state.add_up(state.context, totals);
    kernels::batch_norm_table(totals, count, state.epsilon, gamma, centre, rstd, factor, state.running_mean,
                              state.running_variance, state.momentum);
  } else {
    kernels::batch_norm_running_table(state.running_mean, state.running_variance, state.epsilon, gamma,
                                      centre, rstd, factor);
  }
  const Scaled scaled(tape, x, gamma, beta, centre, factor, activation);
  tape.record("batch_norm", {&x, &gamma, &beta}, {&scaled.y}, [=](Tape& tape) {
    const Tensor dgamma = accumulator_or_scratch(tape, gamma), dbeta = accumulator_or_scratch(tape, beta);
    scaled.backward(tape, 1,
                    [&](const Tensor& sums, const Tensor& dots, const Tensor& slope, const Tensor& addend) {
                      const Tensor totals = tape.empty(pair, DType::f64);
                      kernels::batch_norm_backward_totals(sums, dots, rstd, totals, dgamma, dbeta);
                      if (!of_batch)
                        totals.zero();  // the state's statistics do not depend on x
                      else if (state.add_up)
                        state.add_up(state.context, totals);
                      kernels::batch_norm_backward_table(totals, count, gamma, rstd, slope, addend);
                    });
  });
  return scaled.y;
}

Tensor scale_channels(Tape& tape, const Tensor& x, const Tensor& factor) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x, &factor});
  kernels::scale_channels(x, Tensor(), factor, Tensor(), Activation::none, y, Tensor());
  tape.record("scale_channels", {&x, &factor}, {&y}, [=](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    if (factor.slot) {
      const auto [dfactor, write] = tape.into(factor);
      if (write == Write::assign) {
        kernels::channel_dots(dy, x, Tensor(), Tensor(), dfactor);
      } else {
        const ArenaScope scope(tape.arena());
        const Tensor part = tape.empty(factor.shape(), factor.dtype());
        kernels::channel_dots(dy, x, Tensor(), Tensor(), part);
        kernels::add(dfactor, part, dfactor);
      }
    }
    if (!x.slot) return;
    const auto [dx, write] = tape.into(x);
    kernels::scale_channels_backward(dy, x, Tensor(), factor, Tensor(), Tensor(), dx, write);
  });
  return y;
}

Tensor scale_rows(Tape& tape, const Tensor& x, const Tensor& factor) {
  const Index rows = factor.numel();
  require(rows > 0 && x.numel() % rows == 0, "scale_rows: {} factors for rows of {}", rows, x.shape());
  // Each row is treated as an image with one channel.
  return reshape(scale_channels(tape, reshape(x, {rows, x.numel() / rows, 1}), reshape(factor, {rows, 1})),
                 x.shape());
}

Tensor scale_last(Tape& tape, const Tensor& x, const Tensor& factor) {
  const Index channels = factor.numel();
  require(channels > 0 && x.numel() % channels == 0, "scale_last: {} factors for {}", channels, x.shape());
  return reshape(
      scale_channels(tape, reshape(x, {1, x.numel() / channels, channels}), reshape(factor, {1, channels})),
      x.shape());
}

}  // namespace conclave::functions

#include "autograd/functions/functions.h"
#include "core/kernels/hinge.h"
#include "core/kernels/softmax.h"
#include "core/kernels/squared_error.h"

namespace conclave::functions {

namespace {

// The backward pass of layer_norm with the gradients of gamma and beta per segment.
void layer_norm_apart(Tape& tape, const ExampleRows& rows, const Tensor& dy, const Tensor& x,
                      const Tensor& gamma, const Tensor& beta, kernels::LayerNormOptions options,
                      const Tensor& mean, const Tensor& rstd, const GradientTarget& dx) {
  const auto& segments = rows.segments;
  const auto room = [&] { return rows.gradients->room_for(rows, gamma.shape(), x.dtype(), Tensor()); };
  const Tensor dgamma = room(), dbeta = room();
  for (const Tensor& values : {dgamma, dbeta}) values.zero();
  {
    const ArenaScope scope(tape.arena());
    // The first scratch part of a segment. A segment has layer_norm_parts() parts, at most one per 8 rows and
    // one more.
    const auto first_part = [&](Index s) { return segments.begin(s) / 8 + s; };
    const Tensor scratch = tape.empty({x.size(0) / 8 + segments.count(), 3, x.size(1)}, x.dtype());
#pragma omp parallel for schedule(static) if (x.numel() > kernels::kParallelElements)
    for (Index s = 0; s < segments.count(); ++s) {
      const auto part = [&, begin = segments.begin(s), end = segments.end(s)](const Tensor& all) {
        return all.rows(begin, end);
      };
      const Index first = first_part(s),
                  parts = kernels::layer_norm_parts(segments.end(s) - segments.begin(s));
      const auto own = [s](const Tensor& all) { return all.rows(s, s + 1).reshape({all.size(1)}); };
      kernels::layer_norm_backward(part(dy), part(x), gamma, beta, options, part(mean), part(rstd),
                                   part(dx.gradient), dx.write, own(dgamma), own(dbeta),
                                   scratch.rows(first, first + parts));
    }
  }
  rows.gradients->gradients(rows, gamma, dgamma);
  rows.gradients->gradients(rows, beta, dbeta);
}

}  // namespace

Tensor layer_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                  kernels::LayerNormOptions options) {
  require(x.rank() == 2, "layer_norm: x {} must be [rows, hidden]", x.shape());
  Tensor y = tape.output(x.shape(), x.dtype(), {&x, &gamma, &beta});
  const Tensor mean = tape.empty({x.size(0)}, x.dtype()), rstd = tape.empty({x.size(0)}, x.dtype());
  kernels::layer_norm(x, gamma, beta, options, y, mean, rstd);
  const ExampleRows apart = tape.examples_of("layer_norm", x.size(0), {&gamma, &beta});
  tape.record("layer_norm", {&x, &gamma, &beta}, {&y}, [=](Tape& tape) {
    // The kernel writes all three gradients; those of inputs without a slot go to scratch memory.
    const auto target = [&](const Tensor& input) {
      return input.slot ? tape.into(input)
                        : GradientTarget{tape.empty(input.shape(), input.dtype()), Write::assign};
    };
    const auto dx = target(x);
    if (apart)
      return layer_norm_apart(tape, apart, tape.gradient(y), x, gamma, beta, options, mean, rstd, dx);
    const auto dgamma = target(gamma), dbeta = target(beta);
    for (const auto& [gradient, write] : {dgamma, dbeta})
      if (write == Write::assign) gradient.zero();
    const Tensor scratch = tape.empty({kernels::layer_norm_parts(x.size(0)), 3, x.size(1)}, x.dtype());
    kernels::layer_norm_backward(tape.gradient(y), x, gamma, beta, options, mean, rstd, dx.gradient, dx.write,
                                 dgamma.gradient, dbeta.gradient, scratch);
  });
  return y;
}

Tensor softmax(Tape& tape, const Tensor& x) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x});
  kernels::softmax(x, y, Tensor());
  tape.record("softmax", {&x}, {&y}, [=](Tape& tape) {
    const auto [dx, write] = tape.into(x);
    kernels::softmax_backward(tape.gradient(y), y, dx, write);
  });
  return y;
}

CrossEntropy cross_entropy(Tape& tape, const Tensor& logits, const Tensor& labels, double smoothing) {
  require(logits.rank() == 2, "cross_entropy: logits {} must be [rows, classes]", logits.shape());
  const Index rows = logits.size(0);
  CrossEntropy result{tape.output({rows}, logits.dtype(), {&logits}),
                      tape.empty(logits.shape(), logits.dtype()), tape.empty({rows}, DType::u8)};
  kernels::cross_entropy(logits, labels, smoothing, result.losses, result.probabilities, result.correct);
  tape.record("cross_entropy", {&logits}, {&result.losses}, [=](Tape& tape) {
    const auto [dlogits, write] = tape.into(logits);
    kernels::cross_entropy_backward(tape.gradient(result.losses), result.probabilities, labels, smoothing,
                                    dlogits, write);
  });
  return result;
}

Tensor squared_hinge(Tape& tape, const Tensor& scores, const Tensor& labels) {
  require(scores.rank() == 2, "squared_hinge: scores {} must be [rows, classes]", scores.shape());
  Tensor losses = tape.output({scores.size(0)}, scores.dtype(), {&scores});
  kernels::squared_hinge(scores, labels, losses);
  tape.record("squared_hinge", {&scores}, {&losses}, [=](Tape& tape) {
    const auto [dscores, write] = tape.into(scores);
    kernels::squared_hinge_backward(tape.gradient(losses), scores, labels, dscores, write);
  });
  return losses;
}

Tensor squared_error(Tape& tape, const Tensor& prediction, const Tensor& target) {
  require(prediction.rank() == 2, "squared_error: prediction {} must be [rows, columns]", prediction.shape());
  Tensor losses = tape.output({prediction.size(0)}, prediction.dtype(), {&prediction});
  kernels::squared_error(prediction, target, losses);
  tape.record("squared_error", {&prediction}, {&losses}, [=](Tape& tape) {
    const auto [dprediction, write] = tape.into(prediction);
    kernels::squared_error_backward(tape.gradient(losses), prediction, target, dprediction, write);
  });
  return losses;
}

}  // namespace conclave::functions

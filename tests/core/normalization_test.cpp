#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "core/kernels/hinge.h"
#include "core/kernels/layer_norm.h"
#include "core/kernels/layer_norm_rows.h"
#include "core/kernels/softmax.h"
#include "core/kernels/squared_error.h"
#include "core/kernels/vector_math.h"
#include "tests/core/reference_activation.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

const Shape kShapes[] = {{0, 5}, {1, 1}, {3, 7}, {5, 64}, {601, 31}};

TEMPLATE_TEST_CASE("softmax gives each row's probabilities and log-sum-exp", "[kernels]", float, double) {
  for (const Shape& shape : kShapes) {
    const Index rows = shape[0], columns = shape[1];
    const Tensor x = random_values(shape, 1, dtype_of<TestType>, 4.0);
    const Tensor p = Tensor::empty(shape, DType::f64), log_sum = Tensor::empty({rows}, DType::f64);
    for (Index r = 0; r < rows; ++r) {
      double sum = 0;
      for (Index c = 0; c < columns; ++c) sum += std::exp(double(x.data<TestType>()[r * columns + c]));
      for (Index c = 0; c < columns; ++c)
        p.data<double>()[r * columns + c] = std::exp(double(x.data<TestType>()[r * columns + c])) / sum;
      log_sum.data<double>()[r] = std::log(sum);
    }
    const Tensor y = unwritten(shape, x.dtype()), lse = unwritten({rows}, x.dtype());
    softmax(x, y, lse);
    CHECK(distance(y, p) < tolerance<TestType>);
    CHECK(distance(lse, log_sum) < tolerance<TestType>);

    const Tensor dy = random_values(shape, 2, x.dtype()), expected = Tensor::empty(shape, DType::f64);
    for (Index r = 0; r < rows; ++r) {
      double dot = 0;
      for (Index c = r * columns; c < (r + 1) * columns; ++c)
        dot += double(dy.data<TestType>()[c]) * p.data<double>()[c];
      for (Index c = r * columns; c < (r + 1) * columns; ++c)
        expected.data<double>()[c] = p.data<double>()[c] * (double(dy.data<TestType>()[c]) - dot);
    }
    const Tensor dx = unwritten(shape, x.dtype());
    softmax_backward(dy, y, dx, Write::assign);
    CHECK(distance(dx, expected) < tolerance<TestType>);
    softmax_backward(dy, y, dx, Write::accumulate);
    CHECK(distance(dx, plus(expected, expected)) < tolerance<TestType>);
  }
  CHECK_THROWS_WITH(softmax(Tensor::zeros({3, 0}), Tensor::zeros({3, 0}), {}),
                    "softmax: x [3, 0] has no columns");
}

TEMPLATE_TEST_CASE("softmax of large scores does not overflow", "[kernels]", float, double) {
  const Tensor x = Tensor::of<TestType>(
      {2, 3}, {TestType(1e4), TestType(1e4), TestType(-1e4), TestType(-1e4), TestType(-1e4), TestType(-1e4)});
  const Tensor y = unwritten({2, 3}, x.dtype()), lse = unwritten({2}, x.dtype());
  softmax(x, y, lse);
  CHECK(distance(y, Tensor::of<double>({2, 3}, {0.5, 0.5, 0, 1 / 3.0, 1 / 3.0, 1 / 3.0})) < 1e-6);
  CHECK(distance(lse, Tensor::of<double>({2}, {1e4 + std::log(2.0), -1e4 + std::log(3.0)})) < 1e-6);
}

TEST_CASE("what is masked has no share of a softmax, and all else has some", "[kernels]") {
  const Tensor y = unwritten({1, 4}, DType::f32);
  softmax(Tensor::of<float>({1, 4}, {300, 30, static_cast<float>(400 + kMaskingScore), 30}), y, {});
  const auto shares = y.span<float>();
  CHECK(shares[2] == 0);
  CHECK(std::min(shares[1], shares[3]) > 0);
}

TEMPLATE_TEST_CASE("cross entropy agrees with its formula, smoothed or not", "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  for (const Shape& shape : kShapes) {
    for (const double smoothing : {0.0, 0.1}) {
      const Index rows = shape[0], classes = shape[1];
      CAPTURE(rows, classes, smoothing);
      const Tensor x = random_values(shape, 1, dtype, 3.0), labels = Tensor::empty({rows}, DType::i32);
      const Tensor up = random_values({rows}, 2, dtype);
      const Tensor losses = Tensor::zeros({rows}, DType::f64), dlogits = Tensor::empty(shape, DType::f64);
      const Tensor hits = Tensor::empty({rows}, DType::u8);
      for (Index r = 0; r < rows; ++r) {
        const TestType* in = x.data<TestType>() + r * classes;
        const Index label = r * 5 % classes;
        labels.data<std::int32_t>()[r] = static_cast<std::int32_t>(label);
        double sum = 0;
        for (Index c = 0; c < classes; ++c) sum += std::exp(double(in[c]));
        for (Index c = 0; c < classes; ++c) {
          const double q = (c == label ? 1 - smoothing : 0) + smoothing / double(classes),
                       p = std::exp(double(in[c])) / sum;
          losses.data<double>()[r] -= q * std::log(p);
          dlogits.data<double>()[r * classes + c] = double(up.data<TestType>()[r]) * (p - q);
        }
        hits.data<std::uint8_t>()[r] = std::max_element(in, in + classes) == in + label;
      }
      const Tensor got = unwritten({rows}, dtype), p = unwritten(shape, dtype),
                   correct = Tensor::empty({rows}, DType::u8);
      cross_entropy(x, labels, smoothing, got, p, correct);
      CHECK(distance(got, losses) < tolerance<TestType>);
      CHECK(same_bits(correct, hits));
      const Tensor dx = unwritten(shape, dtype);
      cross_entropy_backward(up, p, labels, smoothing, dx, Write::assign);
      CHECK(distance(dx, dlogits) < tolerance<TestType>);
      cross_entropy_backward(up, p, labels, smoothing, dx, Write::accumulate);
      CHECK(distance(dx, plus(dlogits, dlogits)) < tolerance<TestType>);
    }
  }
}

TEMPLATE_TEST_CASE("no label of logits with a NaN counts as correct", "[kernels]", float, double) {
  const TestType nan = std::numeric_limits<TestType>::quiet_NaN();
  const DType dtype = dtype_of<TestType>;
  const Tensor x = Tensor::of<TestType>({4, 3}, {nan, 1, 3, nan, 1, 3, 1, nan, 3, 1, 2, 3});
  const Tensor correct = Tensor::empty({4}, DType::u8);
  cross_entropy(x, Tensor::of<std::int32_t>({4}, {0, 2, 2, 2}), 0, Tensor::empty({4}, dtype), x.clone(),
                correct);
  CHECK(same_bits(correct, Tensor::of<std::uint8_t>({4}, {0, 0, 0, 1})));
}

TEST_CASE("cross entropy refuses labels that are not a class", "[kernels]") {
  const Tensor x = Tensor::zeros({2, 3}), losses = Tensor::zeros({2}),
               correct = Tensor::zeros({2}, DType::u8);
  for (const std::int32_t wrong : {-1, 3})
    CHECK_THROWS_WITH(
        cross_entropy(x, Tensor::of<std::int32_t>({2}, {0, wrong}), 0, losses, x.clone(), correct),
        "cross_entropy: label " + std::to_string(wrong) + " is outside [0, 3)");
}

TEMPLATE_TEST_CASE("the squared hinge loss and its gradient follow their definitions", "[kernels]", float,
                   double) {
  const DType dtype = dtype_of<TestType>;
  for (const Shape& shape : kShapes) {
    const Index rows = shape[0], classes = shape[1];
    CAPTURE(rows, classes);
    const Tensor scores = random_values(shape, 1, dtype, 2.0), labels = Tensor::empty({rows}, DType::i32),
                 up = random_values({rows}, 2, dtype);
    const Tensor losses = Tensor::zeros({rows}, DType::f64), expected = Tensor::zeros(shape, DType::f64);
    for (Index r = 0; r < rows; ++r) {
      labels.data<std::int32_t>()[r] = static_cast<std::int32_t>(r * 5 % classes);
      for (Index c = 0; c < classes; ++c) {
        const double target = c == r * 5 % classes ? 1 : -1,
                     missing = 1 - target * double(scores.data<TestType>()[r * classes + c]);
        if (missing <= 0) continue;
        losses.data<double>()[r] += missing * missing / double(classes);
        expected.data<double>()[r * classes + c] =
            double(up.data<TestType>()[r]) * -2 * target * missing / double(classes);
      }
    }
    const Tensor got = unwritten({rows}, dtype), dscores = unwritten(shape, dtype);
    squared_hinge(scores, labels, got);
    CHECK(distance(got, losses) < tolerance<TestType>);
    squared_hinge_backward(up, scores, labels, dscores, Write::assign);
    CHECK(distance(dscores, expected) < tolerance<TestType>);
    squared_hinge_backward(up, scores, labels, dscores, Write::accumulate);
    CHECK(distance(dscores, plus(expected, expected)) < tolerance<TestType>);
  }
  for (const std::int32_t wrong : {-1, 3})
    CHECK_THROWS_WITH(
        squared_hinge(Tensor::zeros({2, 3}), Tensor::of<std::int32_t>({2}, {0, wrong}), Tensor::zeros({2})),
        "squared_hinge: label " + std::to_string(wrong) + " is outside [0, 3)");
}

TEMPLATE_TEST_CASE("the squared error and its gradient follow their definitions", "[kernels]", float,
                   double) {
  const DType dtype = dtype_of<TestType>;
  for (const Shape& shape : kShapes) {
    const Index rows = shape[0], columns = shape[1];
    CAPTURE(rows, columns);
    const Tensor prediction = random_values(shape, 1, dtype), target = random_values(shape, 2, dtype),
                 up = random_values({rows}, 3, dtype);
    const Tensor losses = Tensor::zeros({rows}, DType::f64), expected = Tensor::zeros(shape, DType::f64);
    for (Index i = 0; i < shape.numel(); ++i) {
      const double error = double(prediction.data<TestType>()[i]) - double(target.data<TestType>()[i]);
      losses.data<double>()[i / columns] += error * error / double(columns);
      expected.data<double>()[i] = double(up.data<TestType>()[i / columns]) * 2 * error / double(columns);
    }
    const Tensor got = unwritten({rows}, dtype), dprediction = unwritten(shape, dtype);
    squared_error(prediction, target, got);
    CHECK(distance(got, losses) < tolerance<TestType>);
    squared_error_backward(up, prediction, target, dprediction, Write::assign);
    CHECK(distance(dprediction, expected) < tolerance<TestType>);
    squared_error_backward(up, prediction, target, dprediction, Write::accumulate);
    CHECK(distance(dprediction, plus(expected, expected)) < tolerance<TestType>);
  }
  CHECK_THROWS_WITH(squared_error(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}), Tensor::zeros({2})),
                    "squared_error: target is f32 [2, 4], expected f32 [2, 3]");
  CHECK_THROWS_WITH(squared_error(Tensor::zeros({2, 0}), Tensor::zeros({2, 0}), Tensor::zeros({2})),
                    "squared_error: prediction [2, 0] has no columns");
}

struct Normalized {
  Tensor y, dx, dgamma, dbeta;
};

// Forward and backward of layer_norm (+ gelu) by definition, in f64.
Normalized reference_layer_norm(const Tensor& x32, const Tensor& gamma32, const Tensor& beta32,
                                const Tensor& dy32, double epsilon, bool gelu) {
  const Index rows = x32.size(0), hidden = x32.size(1);
  const Tensor x = x32.to(DType::f64), gamma = gamma32.to(DType::f64), beta = beta32.to(DType::f64),
               dy = dy32.to(DType::f64);
  Normalized r{x.clone(), x.clone(), Tensor::zeros({hidden}, DType::f64),
               Tensor::zeros({hidden}, DType::f64)};
  const double n = double(hidden), *g = gamma.data<double>();
  for (Index row = 0; row < rows; ++row) {
    const double *in = x.data<double>() + row * hidden, *up = dy.data<double>() + row * hidden;
    double mean = 0, variance = 0;
    for (Index i = 0; i < hidden; ++i) mean += in[i] / n;
    for (Index i = 0; i < hidden; ++i) variance += (in[i] - mean) * (in[i] - mean) / n;
    const double deviation = std::sqrt(variance + epsilon);
    std::vector<double> normal(size_t(hidden), 0.0), dz(size_t(hidden), 0.0);
    double sum = 0, dot = 0;
    for (Index i = 0; i < hidden; ++i) {
      normal[size_t(i)] = (in[i] - mean) / deviation;
      const double z = normal[size_t(i)] * g[i] + beta.data<double>()[i];
      const auto [value, slope] = reference_activation(z, gelu ? Activation::gelu : Activation::none);
      r.y.data<double>()[row * hidden + i] = value;
      dz[size_t(i)] = up[i] * slope;
      r.dgamma.data<double>()[i] += dz[size_t(i)] * normal[size_t(i)];
      r.dbeta.data<double>()[i] += dz[size_t(i)];
      sum += dz[size_t(i)] * g[i] / n;
      dot += dz[size_t(i)] * g[i] * normal[size_t(i)] / n;
    }
    for (Index i = 0; i < hidden; ++i)
      r.dx.data<double>()[row * hidden + i] =
          (dz[size_t(i)] * g[i] - sum - normal[size_t(i)] * dot) / deviation;
  }
  return r;
}

TEMPLATE_TEST_CASE("layer_norm and its backward agree with the definition, with and without GELU",
                   "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  for (const Shape& shape : {Shape{0, 5}, Shape{3, 7}, Shape{5, 64}, Shape{601, 31}}) {
    for (const bool gelu : {false, true}) {
      const Index rows = shape[0], hidden = shape[1];
      CAPTURE(rows, hidden, gelu);
      const LayerNormOptions options{.epsilon = 1e-3, .gelu = gelu};
      const Tensor x = random_values(shape, 1, dtype, 2.0), dy = random_values(shape, 4, dtype);
      const Tensor gamma = random_values({hidden}, 2, dtype), beta = random_values({hidden}, 3, dtype);
      const Normalized expected = reference_layer_norm(x, gamma, beta, dy, 1e-3, gelu);
      const Tensor y = unwritten(shape, dtype), mean = unwritten({rows}, dtype),
                   rstd = unwritten({rows}, dtype);
      layer_norm(x, gamma, beta, options, y, mean, rstd);
      CHECK(distance(y, expected.y) < tolerance<TestType>);

      const Tensor dx = unwritten(shape, dtype),
                   scratch = unwritten({layer_norm_parts(rows), 3, hidden}, dtype);
      const Tensor dgamma = random_values({hidden}, 5, dtype), dbeta = random_values({hidden}, 6, dtype);
      const Tensor dgamma0 = dgamma.clone(), dbeta0 = dbeta.clone();
      layer_norm_backward(dy, x, gamma, beta, options, mean, rstd, dx, Write::assign, dgamma, dbeta, scratch);
      CHECK(distance(dx, expected.dx) < tolerance<TestType>);
      CHECK(distance(dgamma, plus(dgamma0, expected.dgamma)) < 10 * tolerance<TestType>);
      CHECK(distance(dbeta, plus(dbeta0, expected.dbeta)) < 10 * tolerance<TestType>);
      layer_norm_backward(dy, x, gamma, beta, options, mean, rstd, dx, Write::accumulate, dgamma, dbeta,
                          scratch);
      CHECK(distance(dx, plus(expected.dx, expected.dx)) < tolerance<TestType>);
    }
  }
}

// layer_norm() uses the widest vectors of the processor, layer_norm_rows the width given to it.
TEST_CASE("rows of layer_norm have the same bits in vectors of any width", "[kernels]") {
  for (const Index hidden : {5, 16, 77, 256})
    for (const bool gelu : {false, true})
      for (const Write mode : {Write::assign, Write::accumulate}) {
        CAPTURE(hidden, gelu);
        constexpr DType kType = DType::f32;
        const Tensor x = random_values({1, hidden}, 1, kType, 3.0), dy = random_values(x.shape(), 2, kType),
                     gamma = random_values({hidden}, 3, kType), beta = random_values({hidden}, 4, kType),
                     scratch = unwritten({1, 3, hidden}, kType);
        const auto outcome = [&] {
          return std::array{unwritten(x.shape(), kType), unwritten({1}, kType),
                            unwritten({1}, kType),       random_values(x.shape(), 5, kType),
                            Tensor::zeros({hidden}),     Tensor::zeros({hidden})};
        };
        const auto [y, mean, rstd, dx, dgamma, dbeta] = outcome();
        const LayerNormOptions options{.gelu = gelu};
        layer_norm(x, gamma, beta, options, y, mean, rstd);
        layer_norm_backward(dy, x, gamma, beta, options, mean, rstd, dx, mode, dgamma, dbeta, scratch);

        const auto narrow = outcome();
        float* to[narrow.size()];
        for (std::size_t i = 0; i < narrow.size(); ++i) to[i] = narrow[i].data<float>();
        const layer_norm_rows::Row<float> row{x.data<float>(), gamma.data<float>(), beta.data<float>(),
                                              hidden, gelu};
        layer_norm_rows::forward<float, 32>(row, options.epsilon, to[0], *to[1], *to[2]);
        layer_norm_rows::backward<float, 32>(
            row, {dy.data<float>(), *to[1], *to[2], to[3], to[4], to[5], mode, scratch.data<float>()});
        const Tensor* wide[] = {&y, &mean, &rstd, &dx, &dgamma, &dbeta};
        for (std::size_t i = 0; i < narrow.size(); ++i) CHECK(same_bits(*wide[i], narrow[i]));
      }
}

TEMPLATE_TEST_CASE("layer_norm of equal values is beta", "[kernels]", float, double) {
  const Tensor x = Tensor::empty({2, 9}, dtype_of<TestType>), y = x.clone(),
               beta = random_values({9}, 1, x.dtype());
  x.fill(1000.125);
  layer_norm(x, random_values({9}, 2, x.dtype()), beta, {}, y, Tensor::zeros({2}, x.dtype()),
             Tensor::zeros({2}, x.dtype()));
  CHECK(same_bits(y.rows(0, 1).reshape({9}), beta));
}

}  // namespace
}  // namespace conclave::kernels

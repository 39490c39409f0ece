#include <catch2/catch.hpp>

#include <array>
#include <cmath>
#include <limits>

#include "core/kernels/activation.h"
#include "core/kernels/activation_loops.h"
#include "core/kernels/adamw.h"
#include "core/kernels/dropout.h"
#include "core/kernels/embedding.h"
#include "core/kernels/gate.h"
#include "core/kernels/hinge.h"
#include "core/kernels/layer_norm.h"
#include "core/kernels/permutation.h"
#include "core/kernels/reduction.h"
#include "core/kernels/softmax.h"
#include "core/random.h"
#include "tests/core/reference_activation.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEMPLATE_TEST_CASE("activations and their derivatives follow their formulas", "[kernels]", float, double) {
  for (const Index count :
       {0, 1, 7, 37, 20001}) {  // the last needs a second thread and ends in an incomplete chunk
    const Tensor x = random_values({count}, 1, dtype_of<TestType>, 3.0);
    for (const Activation kind : kAllActivations) {
      CAPTURE(count, int(kind));
      const Tensor expected = Tensor::empty({count}, DType::f64), slope = expected.clone();
      for (Index i = 0; i < count; ++i)
        std::tie(expected.data<double>()[i], slope.data<double>()[i]) =
            reference_activation(double(x.data<TestType>()[i]), kind);
      const Tensor y = unwritten({count}, x.dtype()), d = unwritten({count}, x.dtype());
      activation(x, kind, y, d);
      CHECK(distance(y, expected) < tolerance<TestType>);
      CHECK(distance(d, slope) < tolerance<TestType>);
      const Tensor in_place = x.clone();
      activation(in_place, kind, in_place, Tensor());
      CHECK(distance(in_place, expected) < tolerance<TestType>);
    }
  }
}

TEMPLATE_TEST_CASE("activations are finite for large inputs and pass NaN on", "[kernels]", float, double) {
  const TestType nan = std::numeric_limits<TestType>::quiet_NaN();
  for (const Activation kind : kAllActivations) {
    const Tensor one = Tensor::of<TestType>({1}, {nan}), of_one = one.clone();
    activation(one, kind, of_one, Tensor());
    CAPTURE(int(kind));
    CHECK(std::isnan(of_one.data<TestType>()[0]));
  }
  for (const Activation kind : {Activation::gelu, Activation::silu, Activation::hard_swish}) {
    const Tensor x =
        Tensor::of<TestType>({5}, {TestType(-1e4), TestType(-100), TestType(100), TestType(1e4), nan});
    const Tensor y = Tensor::empty({5}, x.dtype()), d = Tensor::empty({5}, x.dtype());
    activation(x, kind, y, d);
    CHECK(distance(y.rows(0, 4), Tensor::of<double>({4}, {0, 0, 100, 1e4})) < 1e-6);
    CHECK(distance(d.rows(0, 4), Tensor::of<double>({4}, {0, 0, 1, 1})) < 1e-6);
    CHECK(std::isnan(y.data<TestType>()[4]));
  }
}

// activate() uses the widest vectors of the processor, activation_loops::run the width given to it.
TEST_CASE("activations have the same bits in vectors of any width", "[kernels]") {
  const Tensor x = random_values({20001}, 1, DType::f32, 20.0);
  for (const Activation kind : kAllActivations)
    for (const bool derivatives : {false, true}) {
      CAPTURE(int(kind), derivatives);
      const Tensor wide = x.clone(), narrow = x.clone(), wide_d = Tensor::zeros(x.shape()),
                   narrow_d = wide_d.clone();
      activate(wide.data<float>(), x.numel(), kind, derivatives ? wide_d.data<float>() : nullptr);
      activation_loops::run<float, 32>(narrow.data<float>(), x.numel(), kind,
                                       derivatives ? narrow_d.data<float>() : nullptr);
      CHECK(same_bits(wide, narrow));
      CHECK(same_bits(wide_d, narrow_d));
    }
}

TEMPLATE_TEST_CASE("add, multiply and scale go element by element", "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  for (const Shape& shape : {Shape{0, 4}, Shape{1}, Shape{3, 5, 7}, Shape{333, 67}}) {
    const Tensor a = random_values(shape, 1, dtype), b = random_values(shape, 2, dtype);
    const Tensor product = Tensor::empty(shape, DType::f64), scaled = product.clone();
    for (Index i = 0; i < a.numel(); ++i) {
      product.data<double>()[i] = double(a.data<TestType>()[i]) * double(b.data<TestType>()[i]);
      scaled.data<double>()[i] = -2.5 * double(a.data<TestType>()[i]);
    }
    const Tensor c = unwritten(shape, dtype);
    add(a, b, c);
    CHECK(distance(c, plus(a, b)) < tolerance<TestType>);
    add(c, b, c);
    CHECK(distance(c, plus(plus(a, b), b)) < tolerance<TestType>);
    multiply(a, b, c);
    CHECK(distance(c, product) < tolerance<TestType>);
    multiply(a, b, c, Write::accumulate);
    CHECK(distance(c, plus(product, product)) < tolerance<TestType>);
    scale(a, -2.5, c);
    CHECK(distance(c, scaled) < tolerance<TestType>);
    scale(a, -2.5, c, Write::accumulate);
    CHECK(distance(c, plus(scaled, scaled)) < tolerance<TestType>);
  }
  const Tensor rows = Tensor::of<TestType>({2, 2, 1}, {1, 2, 3, 4});
  scale_rows(rows, std::array{0.5, -2.0});
  CHECK(distance(rows, Tensor::of<double>({2, 2, 1}, {0.5, 1, -6, -8})) == 0);
  CHECK_THROWS_WITH(scale_rows(rows, std::array{1.0}), "scale_rows: 1 factors for the rows of [2, 2, 1]");
  CHECK_THROWS_WITH(add(Tensor::zeros({2}), Tensor::zeros({3}), Tensor::zeros({2})),
                    "add: b is f32 [3], expected f32 [2]");
  CHECK_THROWS_WITH(multiply(Tensor::zeros({2}), Tensor::zeros({2}), Tensor::zeros({2}, DType::f64)),
                    "multiply: c is f64 [2], expected f32 [2]");
}

TEMPLATE_TEST_CASE("dropout drops about its rate and scales the rest", "[kernels]", float, double) {
  const Tensor ones = Tensor::empty({40000}, dtype_of<TestType>), y = ones.clone();
  const Tensor mask = Tensor::empty(ones.shape(), DType::u8);
  ones.fill(1);
  for (const double rate : {0.0, 0.1, 0.5, 0.9}) {
    dropout(ones, Tensor(), rate, RandomStream{5, 1, 2}, 0, y, mask);
    Index dropped = 0;
    for (const TestType value : y.span<TestType>()) {
      dropped += value == 0;
      if (value != 0)
        REQUIRE(double(value) == Approx(1 / (1 - rate)).epsilon(1e-4));  // the rate is rounded to 2^-16
    }
    CHECK(double(dropped) / 40000 == Approx(rate).margin(5 * 0.5 / 200));
  }
  CHECK_THROWS_WITH(dropout(ones, Tensor(), 1.0, {}, 0, y, mask), "dropout: rate 1 is outside [0, 1)");
  CHECK_THROWS_AS(dropout(ones, Tensor(), -0.1, {}, 0, y, mask), Error);
}

TEST_CASE("dropout of the parts of a tensor drops the same elements as of the whole", "[kernels]") {
  const RandomStream stream{.seed = 9, .step = 3, .tensor = 1};
  const Tensor x = random_values({10003}, 1), whole = unwritten({10003}, DType::f64);
  const Tensor whole_mask = Tensor::empty(x.shape(), DType::u8);
  dropout(x, Tensor(), 0.3, stream, 0, whole, whole_mask);
  const Index cuts[] = {0, 0, 1, 8, 13, 500, 507, 10003};
  for (int part = 0; part < 7; ++part) {
    const Index begin = cuts[part], end = cuts[part + 1];
    const Tensor y = unwritten({end - begin}, DType::f64), mask = Tensor::empty(y.shape(), DType::u8);
    dropout(x.rows(begin, end), Tensor(), 0.3, stream, begin, y, mask);
    CHECK(same_bits(y, whole.rows(begin, end)));
    CHECK(same_bits(mask, whole_mask.rows(begin, end)));
  }
}

TEST_CASE("dropout decides each element by 16 bits of Philox, eight per draw", "[kernels]") {
  const RandomStream stream{.seed = 9, .step = 3, .tensor = 1};
  const Tensor x = random_values({100}, 1), y = unwritten({100}, DType::f64);
  const Tensor mask = Tensor::empty(x.shape(), DType::u8);
  dropout(x, Tensor(), 0.25, stream, 3, y, mask);
  for (Index i = 0; i < 100; ++i) {
    const auto words = stream.bits(std::uint64_t(i + 3) / 8);
    const std::size_t number = std::size_t(i + 3) % 8;
    const std::uint32_t drawn = words[number / 2] >> (number % 2 * 16) & 0xffffu;
    REQUIRE(mask.data<std::uint8_t>()[i] == (drawn >= 65536 / 4));
    REQUIRE(y.data<double>()[i] == (drawn >= 65536 / 4 ? x.data<double>()[i] * (1 / 0.75) : 0));
  }
}

TEMPLATE_TEST_CASE("dropout adds the residual, and its backward is dropout of the gradient", "[kernels]",
                   float, double) {
  const RandomStream stream{.seed = 9, .step = 3, .tensor = 1};
  const DType dtype = dtype_of<TestType>;
  const Tensor x = random_values({5, 11}, 1, dtype), residual = random_values({5, 11}, 2, dtype);
  const Tensor alone = unwritten(x.shape(), dtype), y = alone.clone(), dx = alone.clone();
  const Tensor mask = Tensor::empty(x.shape(), DType::u8);
  dropout(x, residual, 0.5, stream, 4, y, mask);
  dropout(x, Tensor(), 0.5, stream, 4, alone, mask);
  CHECK(distance(y, plus(alone, residual)) < tolerance<TestType>);
  dropout_backward(x, mask, 0.5, dx, Write::assign);
  CHECK(same_bits(dx, alone));
  dropout_backward(x, mask, 0.5, dx, Write::accumulate);
  CHECK(distance(dx, plus(alone, alone)) < tolerance<TestType>);
}

// Algorithm 2 of the paper, plus the moving average of the weights.
void reference_adamw(double& w, double g, double& m, double& v, double& average, const AdamWOptions& o) {
  g *= o.gradient_scale;
  m = o.beta1 * m + (1 - o.beta1) * g;
  v = o.beta2 * v + (1 - o.beta2) * g * g;
  const double m_hat = m / (1 - std::pow(o.beta1, double(o.step))),
               v_hat = v / (1 - std::pow(o.beta2, double(o.step)));
  w = w - o.learning_rate * (m_hat / (std::sqrt(v_hat) + o.epsilon) + o.weight_decay * w);
  average = o.ema * average + (1 - o.ema) * w;
}

TEMPLATE_TEST_CASE("adamw follows its algorithm over several steps", "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  const Tensor numbers = unwritten({kAdamWNumbers}, dtype);
  for (const Index count : {0, 1, 13, 17001}) {
    const Tensor w = random_values({count}, 1, dtype), m = Tensor::zeros({count}, dtype), v = m.clone();
    const Tensor average = w.clone();
    const Tensor w0 = w.to(DType::f64), m0 = m.to(DType::f64), v0 = v.to(DType::f64), a0 = w.to(DType::f64);
    AdamWOptions options{.learning_rate = 0.02, .weight_decay = 0.1, .gradient_scale = 0.5, .ema = 0.9};
    for (options.step = 1; options.step <= 5; ++options.step) {
      const Tensor g = random_values({count}, static_cast<std::uint32_t>(options.step) + 1, dtype);
      prepare_adamw(options, numbers);
      adamw(w, g, m, v, average, Decay::on, numbers);
      for (Index i = 0; i < count; ++i)
        reference_adamw(w0.data<double>()[i], double(g.data<TestType>()[i]), m0.data<double>()[i],
                        v0.data<double>()[i], a0.data<double>()[i], options);
    }
    CHECK(distance(w, w0) < tolerance<TestType>);
    CHECK(distance(m, m0) < tolerance<TestType>);
    CHECK(distance(v, v0) < tolerance<TestType>);
    CHECK(distance(average, a0) < tolerance<TestType>);
  }
  const Tensor one = Tensor::zeros({1});
  CHECK_THROWS_WITH(prepare_adamw({.step = 0}, numbers), "adamw: step 0 must be at least 1");
  CHECK_THROWS_WITH(prepare_adamw({}, one), "adamw: numbers is f32 [1], expected f32 [10]");
  CHECK_THROWS_WITH(adamw(one, one, one, one, Tensor(), Decay::on, one),
                    "adamw: numbers is f32 [1], expected f32 [10]");
  CHECK_THROWS_WITH(adamw(one, Tensor::zeros({2}), one, one, Tensor(), Decay::on, numbers),
                    "adamw: gradients is f32 [2], expected f32 [1]");
}

TEMPLATE_TEST_CASE("adamw without adaptive rates takes steps along the mean gradient", "[kernels]", float,
                   double) {
  const DType dtype = dtype_of<TestType>;
  const Index count = 17001;
  const Tensor numbers = unwritten({kAdamWNumbers}, dtype);
  const Tensor w = random_values({count}, 1, dtype), m = Tensor::zeros({count}, dtype), v = m.clone();
  const Tensor expected = w.to(DType::f64), mean = Tensor::zeros({count}, DType::f64);
  AdamWOptions options{.learning_rate = 0.3, .adaptive = false, .weight_decay = 0.1, .gradient_scale = 0.5};
  options.beta1 = GENERATE(0.0, 0.8);
  for (options.step = 1; options.step <= 3; ++options.step) {
    const Tensor g = random_values({count}, static_cast<std::uint32_t>(options.step) + 1, dtype);
    prepare_adamw(options, numbers);
    adamw(w, g, m, v, Tensor(), Decay::on, numbers);
    for (Index i = 0; i < count; ++i) {
      double& x = expected.data<double>()[i];
      double& past = mean.data<double>()[i];
      past = options.beta1 * past + (1 - options.beta1) * 0.5 * double(g.data<TestType>()[i]);
      x -= 0.3 * (past / (1 - std::pow(options.beta1, double(options.step))) + 0.1 * x);
    }
  }
  CHECK(distance(w, expected) < tolerance<TestType>);
}

TEST_CASE("without adaptive rates, a second moment that overflows does no harm", "[kernels]") {
  const Tensor w = Tensor::zeros({1}), g = w.clone(), m = w.clone(), v = w.clone();
  g.fill(1e20);
  const Tensor numbers = unwritten({kAdamWNumbers}, DType::f32);
  prepare_adamw({.learning_rate = 0.5, .beta1 = 0, .adaptive = false}, numbers);
  adamw(w, g, m, v, Tensor(), Decay::on, numbers);
  CHECK(std::isinf(v.data<float>()[0]));
  CHECK(w.data<float>()[0] == Approx(-0.5e20));
}

TEST_CASE("kernels of contiguous rows refuse strided ones", "[kernels]") {
  const auto refuses = [](const auto& call) {
    CHECK_THROWS_WITH(call(), Catch::Contains("[4, 3] (strided)"));
  };
  const Tensor strided = Tensor::zeros({4, 6}).slice(1, 0, 3), whole = Tensor::zeros({4, 3}),
               out = Tensor::zeros({4, 3}), of_rows = Tensor::zeros({4}), of_columns = Tensor::zeros({3}),
               ids = Tensor::zeros({4}, DType::i32), slots = Tensor::zeros({4, 1}, DType::i32),
               offsets = Tensor::of<std::int32_t>({2}, {0, 4}), mask = Tensor::zeros({4, 3}, DType::u8);
  refuses([&] { softmax(strided, out, {}); });
  refuses([&] { softmax_backward(whole, strided, out, Write::assign); });
  refuses([&] { cross_entropy(strided, ids, 0, of_rows, out, Tensor::zeros({4}, DType::u8)); });
  refuses([&] { activation(strided, Activation::relu, out, {}); });
  refuses([&] { multiply(strided, whole, out); });
  refuses([&] { add(strided, whole, out); });
  refuses([&] { scale(strided, 2, out); });
  refuses([&] { swap(strided, out); });
  refuses([&] { dropout(strided, {}, 0.5, {}, 0, out, mask); });
  refuses([&] { dropout_backward(strided, mask, 0.5, out, Write::assign); });
  refuses([&] { layer_norm(strided, of_columns, of_columns, {}, out, of_rows, of_rows); });
  refuses([&] {
    layer_norm_backward(whole, strided, of_columns, of_columns, {}, of_rows, of_rows, out, Write::assign,
                        of_columns, of_columns, {});
  });
  refuses([&] { squared_hinge(strided, ids, of_rows); });
  refuses([&] { squared_hinge_backward(of_rows, strided, ids, out, Write::assign); });
  refuses([&] { top_k_gate(strided, {}, slots, Tensor::zeros({4, 1})); });
  refuses([&] { embedding(ids, strided, out); });
  refuses([&] { embedding_bag(ids, offsets, 1, strided, Tensor::zeros({1, 3})); });
  refuses([&] { column_sums(strided, of_columns); });
  refuses([&] { gather_rows(strided, slots, std::span(&out, 1)); });
}

TEST_CASE("adamw does not hide a gradient that is not finite", "[kernels]") {
  const Tensor w = Tensor::zeros({1}), g = Tensor::zeros({1}), m = Tensor::zeros({1}), v = Tensor::zeros({1});
  g.fill(kInfinity);
  const Tensor numbers = unwritten({kAdamWNumbers}, DType::f32);
  prepare_adamw({}, numbers);
  adamw(w, g, m, v, Tensor(), Decay::on, numbers);
  CHECK_FALSE(std::isfinite(w.data<float>()[0]));
}

}  // namespace
}  // namespace conclave::kernels

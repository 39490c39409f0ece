#include <cmath>
#include <limits>
#include <span>

#include "core/kernels/activation.h"
#include "core/kernels/adamw.h"
#include "core/kernels/dropout.h"
#include "core/kernels/fake_quantize.h"
#include "core/kernels/layer_norm.h"
#include "core/kernels/softmax.h"
#include "core/kernels/vector_math.h"
#include "core/random.h"
#include "tests/core/reference_activation.h"
#include "tests/cuda_emulator/twins.h"

namespace conclave {
namespace {

using namespace kernels;
using Tensors = std::vector<Tensor>;

TEMPLATE_TEST_CASE("element-wise kernels on the device agree with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(1);
  for (int round = 0; round < kShapes; ++round) {
    const Shape shape{shapes.between(0, 9), shapes.between(1, 700)};
    const Tensor a = random_values(shape, 1, kType, 2), b = random_values(shape, 2, kType);
    for (const Activation kind : kAllActivations) {
      compare_twins<T>({a, unwritten(shape, kType), unwritten(shape, kType)},
                       [&](const Tensors& t) { activation(t[0], kind, t[1], t[2]); });
      compare_twins<T>({a}, [&](const Tensors& t) { activation(t[0], kind, t[0], {}); });
    }
    compare_twins<T>({a, b}, [](const Tensors& t) { add(t[0], t[1], t[0]); });
    compare_twins<T>({a, b, unwritten(shape, kType), a}, [](const Tensors& t) {
      multiply(t[0], t[1], t[2]);
      multiply(t[0], t[1], t[3], Write::accumulate);
    });
    compare_twins<T>({a, unwritten(shape, kType), b}, [](const Tensors& t) {
      scale(t[0], 0.37, t[1]);
      scale(t[0], 0.37, t[2], Write::accumulate);
    });
    for (const Tensor& rows :
         {a, random_values({600, 8}, 3, kType)}) {  // so many factors that they take two uploads
      const Tensor factors = random_values({rows.size(0)}, 4, DType::f64);
      compare_twins<T>({rows}, [&](const Tensors& t) { scale_rows(t[0], factors.span<double>()); });
    }
  }
}

TEMPLATE_TEST_CASE("layer_norm on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(2);
  // No rows; rows for several blocks, with a warp and with a block for each row; more columns than a block
  // has gradients of; so many columns that shared memory passes 48 KiB, which CUDA grants only on request.
  std::vector<Shape> all{{0, 5}, {100, 36}, {33, 1028}, {1, 8192 + 36}, {3, 4096}};
  for (int round = 0; round < kShapes; ++round) all.push_back({shapes.between(1, 20), shapes.columns()});
  for (const Shape& shape : all) {
    const Index rows = shape[0], hidden = shape[1];
    const Tensor x = random_values(shape, 1, kType, 3), dy = random_values(shape, 2, kType),
                 gamma = random_values({hidden}, 3, kType), beta = random_values({hidden}, 4, kType);
    for (const bool gelu : {false, true})
      for (const Write mode : {Write::assign, Write::accumulate}) {
        const LayerNormOptions options{.gelu = gelu};
        const Tensor dx = mode == Write::assign ? unwritten(shape, kType) : random_values(shape, 5, kType);
        compare_twins<T>(
            {x, gamma, beta, unwritten(shape, kType), unwritten({rows}, kType), unwritten({rows}, kType), dy,
             dx, random_values({hidden}, 6, kType), random_values({hidden}, 7, kType)},
            [&](const Tensors& t) {
              layer_norm(t[0], t[1], t[2], options, t[3], t[4], t[5]);
              layer_norm_backward(t[6], t[0], t[1], t[2], options, t[4], t[5], t[7], mode, t[8], t[9],
                                  unwritten({layer_norm_parts(rows), 3, hidden}, kType));
            });
      }
  }
}

TEMPLATE_TEST_CASE("fake quantization on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(7);
  std::vector<Shape> all{{0, 5}, {100, 36}, {3, 1028}, {1, 4096}};
  for (int round = 0; round < kShapes; ++round) all.push_back({shapes.between(1, 20), shapes.columns()});
  for (const Shape& shape : all) {
    const Index rows = shape[0];
    const Tensor x = random_values(shape, 1, kType, 3), dy = random_values(shape, 2, kType, 0.01);
    for (const QuantLevels levels : {QuantLevels::symmetric(8), QuantLevels::affine(7)})
      for (const Write mode : {Write::assign, Write::accumulate}) {
        const auto of_rows = [&] { return unwritten({rows}, kType); };
        const Tensor dx = mode == Write::assign ? unwritten(shape, kType) : random_values(shape, 3, kType);
        compare_twins<T>(
            {x, of_rows(), of_rows(), of_rows(), of_rows(), unwritten(shape, kType), dy, dx, of_rows()},
            [&](const Tensors& t) {
              row_ranges(t[0], t[1], t[2]);
              range_scales(t[1], t[2], levels, t[3], t[4]);
              fake_quantize(t[0], t[3], t[4], levels, t[5]);
              fake_quantize_backward(t[6], t[0], t[3], t[4], levels, t[7], mode, t[8]);
            });
        // One scale for all rows, too small for the largest values.
        compare_twins<T>({x, Tensor::of<T>({1}, {T(0.03)}), unwritten(shape, kType), dy, of_rows()},
                         [&](const Tensors& t) {
                           fake_quantize(t[0], t[1], Tensor(), levels, t[2]);
                           fake_quantize_backward(t[3], t[0], t[1], Tensor(), levels, Tensor(), mode, t[4]);
                         });
      }
  }
}

TEMPLATE_TEST_CASE("softmax and cross-entropy on the device agree with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(3);
  for (int round = 0; round < 2 * kShapes; ++round) {
    const Index rows = round == 0 ? 0 : shapes.between(1, 20), columns = shapes.columns();
    const Shape shape{rows, columns};
    const Tensor x = random_values(shape, 1, kType, 4), dy = random_values(shape, 2, kType),
                 labels = shapes.integers({rows}, 0, columns - 1), dlosses = random_values({rows}, 3, kType);
    // Two logits of row 0 are the largest: the first of them is the prediction.
    if (rows > 0) {
      x.data<T>()[0] = x.data<T>()[columns - 1] = T(50);
      labels.data<std::int32_t>()[0] = static_cast<std::int32_t>(round % 2 ? columns - 1 : 0);
    }
    const Tensor masked = x.clone();
    if (rows > 0 && columns > 2) {
      masked.data<T>()[1] += T(kMaskingScore);
      const auto on_device = conclave::cuda::to_device;
      const Tensor shares = on_device(unwritten(shape, kType));
      softmax(on_device(masked), shares, on_device(unwritten({rows}, kType)));
      CHECK(conclave::cuda::to_host(shares).data<T>()[1] ==
            0);  // also in f32, whose least exponential is above 0
    }
    for (const Write mode : {Write::assign, Write::accumulate}) {
      const Tensor dx = mode == Write::assign ? unwritten(shape, kType) : random_values(shape, 4, kType);
      compare_twins<T>({masked, unwritten(shape, kType), unwritten({rows}, kType), dy, dx},
                       [&](const Tensors& t) {
                         softmax(t[0], t[1], t[2]);
                         softmax_backward(t[3], t[1], t[4], mode);
                       });
      compare_twins<T>({x, labels, unwritten({rows}, kType), unwritten(shape, kType),
                        Tensor::zeros({rows}, DType::u8), dlosses, dx},
                       [&](const Tensors& t) {
                         cross_entropy(t[0], t[1], 0.1, t[2], t[3], t[4]);
                         cross_entropy_backward(t[5], t[3], t[1], 0.1, t[6], mode);
                       });
    }
  }
}

// Whether two tensors are equal up to rounding, with NaN and infinities in the same places.
template <class T>
bool alike(const Tensor& a, const Tensor& b) {
  return std::ranges::equal(a.span<T>(), b.span<T>(), [](T x, T y) {
    if (!std::isfinite(x) || !std::isfinite(y)) return x == y || (std::isnan(x) && std::isnan(y));
    return std::abs(x - y) <= T(tolerance<T>) * std::max(T(1), std::abs(y));
  });
}

struct SoftmaxResults {
  Tensor y, lse, losses, unsmoothed, probabilities, correct;
};

TEMPLATE_TEST_CASE("softmax and cross-entropy of infinite logits agree with the processor", "", float,
                   double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  const T infinity = std::numeric_limits<T>::infinity();
  for (const Index columns : {3, 32, 1028, 1100}) {  // few and many for a thread, multiples of 4 or not
    constexpr Index kRows = 8;
    const Tensor x = random_values({kRows, columns}, 1, kType, 4);
    const auto row = [&](Index number) { return x.rows(number, number + 1).span<T>(); };
    row(1).front() = -infinity;
    std::ranges::fill(row(2).first(static_cast<std::size_t>(columns - 1)), -infinity);
    std::ranges::fill(row(3).subspan(1), -infinity);
    std::ranges::fill(row(4), -infinity);
    row(5).back() = infinity;
    row(6).front() = row(7).front() = std::numeric_limits<T>::quiet_NaN();
    row(7).back() = T(50);
    const Tensor labels = Tensor::zeros({kRows}, DType::i32);
    for (const Index last : {2, 7})
      labels.data<std::int32_t>()[last] = static_cast<std::int32_t>(columns - 1);
    const auto results = [&](auto place, auto back) {
      const auto fresh = [&](const Shape& shape) { return place(unwritten(shape, kType)); };
      const Tensor in = place(x), chosen = place(labels), correct = place(Tensor::zeros({kRows}, DType::u8));
      const SoftmaxResults all{fresh(x.shape()), fresh({kRows}),   fresh({kRows}),
                               fresh({kRows}),   fresh(x.shape()), correct};
      softmax(in, all.y, all.lse);
      cross_entropy(in, chosen, 0.1, all.losses, all.probabilities, correct);
      cross_entropy(in, chosen, 0, all.unsmoothed, all.probabilities, correct);
      return SoftmaxResults{back(all.y),          back(all.lse),           back(all.losses),
                            back(all.unsmoothed), back(all.probabilities), back(all.correct)};
    };
    const auto same = [](const Tensor& tensor) { return tensor; };
    const SoftmaxResults here = results(same, same),
                         there = results(conclave::cuda::to_device, conclave::cuda::to_host);
    INFO("columns " << columns);
    CHECK(alike<T>(there.y, here.y));
    CHECK(alike<T>(there.lse, here.lse));
    CHECK(alike<T>(there.losses, here.losses));
    CHECK(alike<T>(there.unsmoothed, here.unsmoothed));
    CHECK(alike<T>(there.probabilities, here.probabilities));
    CHECK(same_bits(there.correct, here.correct));
    CHECK(same_bits(there.correct.rows(2, kRows), Tensor::of<std::uint8_t>({6}, {1, 1, 0, 0, 0, 0})));
    const T *y = there.y.data<T>(), *losses = there.losses.data<T>();
    CHECK(std::all_of(y, y + 4 * columns, [](T value) { return std::isfinite(value); }));
    CHECK(std::none_of(y + 4 * columns, y + kRows * columns, [](T value) { return std::isfinite(value); }));
    CHECK((y[3 * columns - 1] == Approx(1) && y[3 * columns] == Approx(1)));
    CHECK((losses[2] == infinity && std::abs(there.unsmoothed.data<T>()[2]) < T(1e-6)));
  }
  CHECK(emulator::take_report() == "");
}

TEMPLATE_TEST_CASE("dropout drops the same elements on the device as on the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(4);
  for (int round = 0; round < 3 * kShapes; ++round) {
    const Shape shape{shapes.between(0, 5), shapes.between(1, 700)};
    const Index first = round % 2 ? 8 * shapes.between(0, Index{1} << 40) : shapes.between(0, 1000);
    const RandomStream stream{.seed = 7, .step = static_cast<std::uint32_t>(round), .tensor = 3};
    const double rate = round % 3 ? 0.1 * static_cast<double>(round % 10) : 0.25;
    const Tensor x = random_values(shape, 1, kType), residual = random_values(shape, 2, kType);
    compare_twins<T>({x, round % 4 ? residual : Tensor{}, unwritten(shape, kType),
                      Tensor::zeros(shape, DType::u8), unwritten(shape, kType), residual},
                     [&](const Tensors& t) {
                       dropout(t[0], t[1], rate, stream, first, t[2], t[3]);
                       dropout_backward(t[0], t[3], rate, t[4], Write::assign);
                       dropout_backward(t[0], t[3], rate, t[5], Write::accumulate);
                     });
  }
}

TEMPLATE_TEST_CASE("AdamW on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(5);
  for (int round = 0; round < kShapes; ++round) {
    const Shape shape{shapes.between(0, 2000)};
    const auto positive = random_values(shape, 4, kType);
    for (T& value : positive.template span<T>()) value *= value;
    compare_twins<T>(
        {random_values(shape, 1, kType), random_values(shape, 2, kType), random_values(shape, 3, kType),
         positive, round % 2 ? random_values(shape, 5, kType) : Tensor{}, unwritten({kAdamWNumbers}, kType)},
        [&](const Tensors& t) {
          prepare_adamw({.learning_rate = 0.01,
                         .adaptive = round % 5 != 0,
                         .weight_decay = 0.1,
                         .gradient_scale = 0.7,
                         .step = 3,
                         .ema = 0.9},
                        t[5]);
          adamw(t[0], t[1], t[2], t[3], t[4], round % 3 ? Decay::on : Decay::off, t[5]);
        });
  }
}

TEST_CASE("kernels loop over more rows than the grid has blocks") {
  const DType kType = DType::f32;
  const Shape flat{2048 * 256 * 4 + 1029}, narrow{2048 * 8 + 77, 3}, wide{2048 + 3, 1028};
  compare_twins<float>({random_values(flat, 1, kType), unwritten(flat, kType)},
                       [](const Tensors& t) { scale(t[0], 0.5, t[1]); });
  const Tensor lse_narrow = unwritten({narrow[0]}, kType), lse_wide = unwritten({wide[0]}, kType);
  compare_twins<float>({random_values(narrow, 1, kType), unwritten(narrow, kType), lse_narrow},
                       [](const Tensors& t) { softmax(t[0], t[1], t[2]); });
  compare_twins<float>({random_values(wide, 1, kType), unwritten(wide, kType), lse_wide},
                       [](const Tensors& t) { softmax(t[0], t[1], t[2]); });
}

}  // namespace
}  // namespace conclave

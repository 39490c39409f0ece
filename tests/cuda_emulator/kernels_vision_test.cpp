#include "core/kernels/channels.h"
#include "tests/core/reference_activation.h"
#include "tests/cuda_emulator/twins.h"

namespace conclave {
namespace {

using namespace kernels;
using Tensors = std::vector<Tensor>;

// Channels of packs and not, for one block and for several.
Index some_channels(Shapes& shapes) {
  return shapes.between(0, 1) ? 4 * shapes.between(1, 40) : shapes.between(1, 40);
}

TEMPLATE_TEST_CASE("statistics of channels on the device are what they are on the processor", "", float,
                   double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(21);
  // None; no pixels; one pixel; so many that an image is divided into parts.
  std::vector<Shape> all{{0, 3, 3, 4}, {2, 0, 5}, {3, 1, 8}, {1, 23, 19, 12}, {2, 300, 3}};
  for (int round = 0; round < 4; ++round)
    all.push_back({shapes.between(1, 4), shapes.between(1, 9), shapes.between(1, 9), some_channels(shapes)});
  for (const Shape& shape : all) {
    const Shape table{shape[0], shape[shape.rank() - 1]};
    const Tensor x = random_values(shape, 1, kType), dz = random_values(shape, 2, kType),
                 far = x.clone();  // so far from zero that the mean matters
    for (T& value : far.template span<T>()) value += T(3);
    compare_twins<T>({far, unwritten(table, kType), unwritten(table, kType)},
                     [](const Tensors& t) { channel_moments(t[0], t[1], t[2]); });
    for (const Index rows : {table[0], Index{1}})
      compare_twins<T>({x, dz, random_values({rows, table[1]}, 3, kType), unwritten(table, kType),
                        unwritten(table, kType), unwritten(table, kType)},
                       [](const Tensors& t) {
                         channel_dots(t[1], t[0], t[2], t[3], t[4]);
                         channel_dots(t[1], t[0], {}, {}, t[5]);
                       });
  }
}

TEMPLATE_TEST_CASE("scaled channels on the device are what they are on the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(22);
  std::vector<Shape> all{{0, 3, 3, 4}, {2, 0, 5}, {2, 13, 11, 144}};
  for (int round = 0; round < 4; ++round)
    all.push_back({shapes.between(1, 4), shapes.between(1, 9), shapes.between(1, 9), some_channels(shapes)});
  for (const Shape& shape : all) {
    const Index channels = shape[shape.rank() - 1];
    const Tensor x = random_values(shape, 1, kType), dz = random_values(shape, 2, kType);
    for (const Index rows : {shape[0], Index{1}}) {
      const auto table = [&](std::uint32_t number) { return random_values({rows, channels}, number, kType); };
      for (const Activation kind : kAllActivations)
        compare_twins<T>({x, table(3), table(4), random_values({1, channels}, 5, kType),
                          unwritten(shape, kType), unwritten(shape, kType), unwritten(shape, kType)},
                         [&](const Tensors& t) {
                           scale_channels(t[0], t[1], t[2], t[3], kind, t[4], t[5]);
                           scale_channels(t[0], {}, t[2], {}, kind, t[6], {});
                         });
      for (const Write mode : {Write::assign, Write::accumulate})
        compare_twins<T>({dz, x, table(3), table(4), table(5), table(6), random_values(shape, 7, kType),
                          random_values(shape, 8, kType)},
                         [&](const Tensors& t) {
                           scale_channels_backward(t[0], t[1], t[2], t[3], t[4], t[5], t[6], mode);
                           scale_channels_backward(t[0], t[1], {}, t[3], {}, {}, t[7], mode);
                         });
    }
  }
}

}  // namespace
}  // namespace conclave

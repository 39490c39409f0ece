#include "core/kernels/pixels.h"

namespace conclave::kernels {

void pixels_to_floats(const Tensor& x, std::span<const double> mean, std::span<const double> deviation,
                      const Tensor& y) {
  constexpr const char* kOperation = "pixels_to_floats";
  require(x.rank() >= 1, "{}: x has no channels", kOperation);
  const Index channels = x.size(-1), pixels = x.numel() / std::max<Index>(channels, 1);
  expect(kOperation, "x", x, x.shape(), DType::u8);
  expect(kOperation, "y", y, x.shape(), y.dtype());
  require(static_cast<Index>(mean.size()) == channels && static_cast<Index>(deviation.size()) == channels,
          "{}: {} means and {} deviations for {} channels", kOperation, mean.size(), deviation.size(),
          channels);
  for (const double value : deviation)
    require(value > 0, "{}: a deviation of {}; it must be above 0", kOperation, value);
  for_floating(y.dtype(), kOperation, [&]<class T>(T) {
    const std::uint8_t* from = x.data<std::uint8_t>();
    T* to = y.data<T>();
    for (Index c = 0; c < channels; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const auto factor = static_cast<T>(1 / (255 * deviation[i])),
                 addend = static_cast<T>(-mean[i] / deviation[i]);
#pragma omp parallel for schedule(static) if (pixels > kParallelElements)
      for (Index pixel = 0; pixel < pixels; ++pixel)
        to[pixel * channels + c] = static_cast<T>(from[pixel * channels + c]) * factor + addend;
    }
  });
}

}  // namespace conclave::kernels

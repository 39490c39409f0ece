// Compares CUDA kernels, on the emulated device, with their twins on the processor.
#pragma once

#include <catch2/catch.hpp>

#include <algorithm>
#include <random>
#include <vector>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "tests/core/values.h"
#include "tests/cuda_emulator/emulator.h"

namespace conclave {

/// Number of shapes to test a kernel with; fewer under AddressSanitizer, which is several times slower.
#ifdef __SANITIZE_ADDRESS__
inline constexpr int kShapes = 3;
#else
inline constexpr int kShapes = 6;
#endif

/// Random shapes, most of them not multiples of a block or warp; the same in every run.
class Shapes {
 public:
  explicit Shapes(unsigned seed) : generator_(seed) {}
  Index between(Index least, Index most) {
    return std::uniform_int_distribution<Index>(least, most)(generator_);
  }
  /// Row lengths of all kinds: multiples of 4 or not, for a warp per row and for a block per row.
  Index columns() {
    switch (between(0, 4)) {
      case 0:
        return between(1, 40);
      case 1:
        return 4 * between(1, 40);
      case 2:
        return between(1025, 1400);
      case 3:
        return 4 * between(257, 400);
      default:
        return between(41, 600);
    }
  }
  /// i32 of `shape` in [least, most].
  Tensor integers(const Shape& shape, Index least, Index most) {
    const Tensor values = Tensor::empty(shape, DType::i32);
    for (auto& value : values.span<std::int32_t>()) value = static_cast<std::int32_t>(between(least, most));
    return values;
  }
  /// [segments + 1] i32 from 0 to `rows`, some segments empty.
  Tensor offsets(Index segments, Index rows) {
    const Tensor values = integers({segments + 1}, 0, rows);
    const auto bounds = values.span<std::int32_t>();
    bounds.front() = 0;
    bounds.back() = static_cast<std::int32_t>(rows);
    std::sort(bounds.begin(), bounds.end());
    return values;
  }

 private:
  std::mt19937 generator_;
};

/// A copy on the device whose address is not a multiple of 16 bytes, as that of a view may be.
inline Tensor to_device_off_bounds(const Tensor& tensor) {
  const Tensor larger = cuda::empty_on_device({1 + tensor.numel()}, tensor.dtype());
  const Tensor result = larger.rows(1, 1 + tensor.numel()).reshape(tensor.shape());
  cuda::copy(tensor, result);
  cuda::check(cudaStreamSynchronize(cuda::current_stream()), "copy");
  return result;
}

/// Runs operation(tensors) on copies of `tensors` (undefined ones stay undefined), on the processor and on
/// the device. Afterwards all tensors must agree, integers exactly and others up to rounding, and have equal
/// bits for every order of threads. The last run uses arrays whose addresses are not multiples of 16 bytes.
template <class T, class Operation>
void compare_twins(const std::vector<Tensor>& tensors, Operation operation) {
  const auto each = [](const std::vector<Tensor>& all, auto copy) {
    std::vector<Tensor> copies;
    for (const Tensor& tensor : all) copies.push_back(tensor.defined() ? copy(tensor) : Tensor{});
    return copies;
  };
  const auto expected = each(tensors, [](const Tensor& tensor) { return tensor.clone(); });
  operation(expected);
  std::vector<Tensor> first;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    emulator::set_seed(seed);
    const bool off_bounds = seed == 3;  // kernels may then add in another order
    const auto on_device = each(tensors, off_bounds ? to_device_off_bounds : cuda::to_device);
    const std::size_t launches = emulator::counters().launches;
    operation(on_device);
    const auto actual = each(on_device, cuda::to_host);
    REQUIRE(emulator::take_report() == "");
    if (tensors.front().numel() > 0) REQUIRE(emulator::counters().launches > launches);
    for (std::size_t i = 0; i < actual.size(); ++i) {
      if (!actual[i].defined()) continue;
      INFO("tensor " << i << " of shape " << actual[i].shape().to_string() << ", order " << seed);
      if (actual[i].dtype() == dtype_of<T>)
        CHECK(distance(actual[i], expected[i]) <= tolerance<T>);
      else if (actual[i].dtype() == DType::f64)
        CHECK(distance(actual[i], expected[i]) <= tolerance<double>);
      else
        CHECK(same_bits(actual[i], expected[i]));
      if (seed > 1 && !off_bounds) CHECK(same_bits(actual[i], first[i]));
    }
    if (seed == 1) first = actual;
  }
}

}  // namespace conclave

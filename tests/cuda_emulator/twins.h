// Holds a CUDA kernel, on the emulated device, to what its twin computes on the processor.
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

/// How many shapes a kernel is tried with; fewer where each takes several times as long.
#ifdef __SANITIZE_ADDRESS__
inline constexpr int kShapes = 3;
#else
inline constexpr int kShapes = 6;
#endif

/// Random shapes, of which few are multiples of anything; the same in every run.
class Shapes {
 public:
  explicit Shapes(unsigned seed) : generator_(seed) {}
  Index between(Index least, Index most) {
    return std::uniform_int_distribution<Index>(least, most)(generator_);
  }
  /// Row lengths of every kind: of packs and not, for a warp and for a block.
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
  /// [count] i32 in [least, most].
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

/// A copy on the device that does not begin where 16 bytes do, as a part of a tensor need not.
inline Tensor to_device_off_bounds(const Tensor& tensor) {
  const Tensor larger = cuda::empty_on_device({1 + tensor.numel()}, tensor.dtype());
  const Tensor result = larger.rows(1, 1 + tensor.numel()).reshape(tensor.shape());
  cuda::copy(tensor, result);
  cuda::check(cudaStreamSynchronize(cuda::current_stream()), "copy");
  return result;
}

/// operation(tensors) on copies of `tensors` (undefined ones stay so), on the processor and on the device.
/// What it leaves in all of them is the same but for rounding, integers exactly, and has the same bits in
/// every order of threads. In the end, once more where no array begins where 16 bytes do.
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
    const bool off_bounds = seed == 3;  // where kernels may add up in another order
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

// Measures each operation on this GPU and compares its time with the least time for its bytes and FLOPs. The
// rates are measured, too: a plain copy, multiply-adds in registers, and a large bf16 product of cuBLASLt.
//   cuda_roofline            scripts/gpu_check runs this
//   cuda_roofline --small    small shapes, for the emulated device; the times mean nothing
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string_view>
#include <vector>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "tests/cuda/operations.h"
#include "tests/cuda/peak.h"

namespace conclave::roofline {
namespace {

/// Median time in seconds of the work that `work` queues, after one run to warm up.
double seconds(Size size, const std::function<void()>& work) {
  const std::size_t repetitions = size == Size::small ? 1 : 9;
  const cuda::Event begin(cuda::Timing::on), end(cuda::Timing::on);
  work();
  std::vector<double> times;
  while (times.size() < repetitions) {
    begin.record(cuda::current_stream());
    work();
    end.record(cuda::current_stream());
    end.synchronize();
    times.push_back(end.seconds_since(begin));
  }
  std::sort(times.begin(), times.end());
  return times[repetitions / 2];
}

Rates measure_rates(Size size) {
  const bool small = size == Size::small;
  const Index bytes = Index{1} << (small ? 16 : 30), rounds = small ? 16 : 8192;
  const Tensor from = cuda::to_device(Tensor::zeros({bytes}, DType::u8)),
               to = cuda::empty_on_device({bytes}, DType::u8), out = cuda::empty_on_device({1});
  double flops = 0;
  const double copy = seconds(size, [&] { cuda::copy(from, to); }),
               arithmetic = seconds(size, [&] { flops = multiply_adds(rounds, small, out); });
  const std::vector<Operation> table = operations(size);
  const Operation& product = *std::ranges::find(table, Arithmetic::bf16_products, &Operation::arithmetic);
  const std::vector<Tensor> matrices = product.tensors();
  return {.bytes = 2 * static_cast<double>(bytes) / copy,
          .f32 = flops / arithmetic,
          .bf16_products = product.flops / seconds(size, [&] { product.run(matrices); })};
}

void print(Size size) {
  cudaDeviceProp device;
  cuda::check(cudaGetDeviceProperties(&device, 0), "asking for the device");
  const Rates rates = measure_rates(size);
  fmt::print(
      "{}, {} multiprocessors, compute capability {}.{}: copies {:.2f} TB/s, multiply-adds {:.1f} TFLOP/s, "
      "products of bf16 {:.1f} TFLOP/s\n",
      device.name, device.multiProcessorCount, device.major, device.minor, rates.bytes / 1e12,
      rates.f32 / 1e12, rates.bf16_products / 1e12);
  fmt::print("{:<33}{:>12}{:>12}{:>10}  {}\n", "operation", "us", "floor us", "of floor", "sizes");
  for (const Operation& operation : operations(size)) {
    const std::vector<Tensor> tensors = operation.tensors();
    const double time = seconds(size, [&] { operation.run(tensors); }), least = floor_of(operation, rates);
    fmt::print("{:<33}{:>12.2f}{:>12.2f}{:>9.0f}%  {}\n", operation.name, time * 1e6, least * 1e6,
               100 * least / time, operation.sizes);
  }
}

}  // namespace
}  // namespace conclave::roofline

int main(int count, char** arguments) {
  using namespace conclave;
  const bool small = count == 2 && std::string_view(arguments[1]) == "--small";
  try {
    require(count == 1 || small, "cuda_roofline: there is --small, and nothing else");
    roofline::print(small ? roofline::Size::small : roofline::Size::large);
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}

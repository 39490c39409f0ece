// Graphs: a launch queues the captured work again, which reads what its memory holds by then.
#include "core/cuda/graph.h"
#include "core/cuda/upload.h"
#include "core/kernels/adamw.h"
#include "core/replay.h"
#include "tests/core/values.h"
#include "tests/cuda_emulator/trial.h"

namespace conclave {
namespace {

using cuda::launch;

__global__ void add_to(float* sum, const float* amount) { *sum += *amount; }

void queue_addition(const Tensor& sum, const Tensor& amount) {
  launch("addition", add_to, {.grid = dim3(1), .block = dim3(1)}, sum.data<float>(),
         static_cast<const float*>(amount.data<float>()));
}

void upload(float value, const Tensor& to) {
  cuda::upload("upload", std::span<const float>(&value, 1), to.data<float>());
}

TEST_CASE("a graph runs the captured work at each launch and not before", "[graph]") {
  const Tensor sum = cuda::to_device(Tensor::zeros({1})), amount = cuda::to_device(ramp(1));
  const emulator::Counters before = emulator::counters();
  const cuda::Graph graph([&] {
    queue_addition(sum, amount);
    queue_addition(sum, amount);
    cuda::zero(amount);
  });
  CHECK(emulator::counters().captures == before.captures + 1);
  CHECK(cuda::to_host(sum).data<float>()[0] == 0);
  graph.launch();
  CHECK(cuda::to_host(sum).data<float>()[0] == 2);
  const cuda::Stream stream;
  const cuda::StreamScope scope(stream);
  for (const float value : {3.0f, 4.0f}) {
    upload(value, amount);
    graph.launch();
  }
  CHECK(cuda::to_host(sum).data<float>()[0] == 2 + 6 + 8);
  CHECK(cuda::to_host(amount).data<float>()[0] == 0);
  CHECK(emulator::counters().graphs == before.graphs + 3);
  CHECK(emulator::counters().launches == before.launches + 2 * 3 + 2);
}

TEST_CASE("a graph whose captured work fails is an Error, and the next one works", "[graph]") {
  const Tensor sum = cuda::to_device(Tensor::zeros({1})), amount = cuda::to_device(ramp(1));
  CHECK_THROWS_WITH(cuda::Graph([&] {
                      queue_addition(sum, amount);
                      fail("planned");
                    }),
                    "planned");
  const cuda::Graph nothing([] {}), one([&] { queue_addition(sum, amount); });
  nothing.launch();
  one.launch();
  CHECK(cuda::to_host(sum).data<float>()[0] == 1);
}

TEMPLATE_TEST_CASE("AdamW's updates are captured once and use the numbers of each step", "[graph]", float,
                   double) {
  using kernels::AdamWOptions, kernels::Decay, kernels::kAdamWNumbers, kernels::adamw, kernels::prepare_adamw;
  constexpr DType kType = dtype_of<TestType>;
  struct Parameters {
    Tensor values, gradients, first, second, average;
  };
  const std::vector<Index> sizes{37, 0, 16};
  const auto make = [&](auto place) {
    std::vector<Parameters> result;
    for (const Index size : sizes) {
      const Tensor zeros = Tensor::zeros({size}, kType), values = random_values({size}, 1, kType);
      result.push_back(
          {place(values), place(random_values({size}, 2, kType)), place(zeros), place(zeros), place(values)});
    }
    return result;
  };
  const auto here = make([](auto tensor) { return tensor.clone(); }), there = make(cuda::to_device);
  const Tensor numbers_here = unwritten({kAdamWNumbers}, kType),
               numbers_there = cuda::to_device(numbers_here);
  const auto update = [](const std::vector<Parameters>& all, const Tensor& numbers) {
    for (std::size_t i = 0; i < all.size(); ++i)
      adamw(all[i].values, all[i].gradients, all[i].first, all[i].second, all[i].average,
            i == 0 ? Decay::on : Decay::off, numbers);
  };
  Replay on_host(Device::cpu), on_device(Device::cuda);
  const emulator::Counters before = emulator::counters();
  constexpr int kSteps = 4;
  for (int step = 1; step <= kSteps; ++step) {
    const AdamWOptions options{.learning_rate = 0.1 / step,
                               .weight_decay = 0.1,
                               .gradient_scale = 1.0 / step,
                               .step = step,
                               .ema = 0.2 * step};
    prepare_adamw(options, numbers_here);
    on_host.run([&] { update(here, numbers_here); });
    prepare_adamw(options, numbers_there);
    on_device.run([&] { update(there, numbers_there); });
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    CHECK(distance(cuda::to_host(there[i].values), here[i].values) <= tolerance<TestType>);
    CHECK(distance(cuda::to_host(there[i].average), here[i].average) <= tolerance<TestType>);
  }
  CHECK(emulator::take_report() == "");
  CHECK(emulator::counters().captures == before.captures + 1);
  CHECK(emulator::counters().graphs == before.graphs + kSteps - 1);
  CHECK(emulator::counters().launches == before.launches + kSteps * 3);
}

}  // namespace
}  // namespace conclave

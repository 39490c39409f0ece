// A CUDA call that fails becomes an Error that names the operation, and later calls work again.
#include <catch2/catch.hpp>

#include "core/cuda/graph.h"
#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "tests/core/values.h"
#include "tests/cuda/operations.h"
#include "tests/cuda_emulator/emulator.h"

namespace conclave {
namespace {

// Runs body() again and again; its first call fails, then its second one, and so on until body() succeeds.
// Returns the number of its calls that can fail.
template <class Body>
std::size_t break_at_each_call(Body&& body) {
  for (std::size_t call = 1;; ++call) {
    emulator::break_at(call);
    bool failed = false;
    try {
      body();
    } catch (const Error& error) {
      failed = true;
      CHECK_THAT(error.what(), Catch::Contains(" says: the device broke, as planned"));
    }
    emulator::break_at(0);
    CHECK((emulator::take_report() == "") != failed);
    if (!failed) return call - 1;
  }
}

TEST_CASE("a CUDA failure in an operation is an Error, and later operations work") {
  for (const roofline::Operation& operation : roofline::operations(roofline::Size::small)) {
    INFO(operation.name);
    const std::vector<Tensor> tensors = operation.tensors();
    CHECK(break_at_each_call([&] { operation.run(tensors); }) > 0);
  }
}

TEST_CASE("CUDA failures of memory, streams and events are Errors without leaks") {
  const Tensor host = random_values({5}, 1, DType::f32);
  const std::size_t live = emulator::counters().live;
  CHECK(break_at_each_call([&] {
          const Tensor back = cuda::to_host(cuda::to_device(host));
          CHECK(same_bits(back, host));
        }) == 5);
  CHECK(emulator::counters().live == live);
  CHECK(break_at_each_call([] {
          const cuda::Stream stream, other;
          const cuda::Event event;
          event.record(stream.handle());
          other.wait_for(event);
          event.synchronize();
          require(event.passed(), "an event that was waited for has passed");
          other.synchronize();
        }) == 8);
  const Tensor device = cuda::to_device(host);
  CHECK(break_at_each_call([&] {
          const cuda::Graph graph([&] { cuda::zero(device); });
          graph.launch();
          cuda::synchronize();
        }) == 7);
  CHECK(break_at_each_call([] { cuda::PinnedMemory(100); }) == 1);
}

}  // namespace
}  // namespace conclave

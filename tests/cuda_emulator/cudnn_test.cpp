// Results of the emulated cuDNN, planted mistakes in its use, each of which it detects, and its use by the
// project.
#include <cudnn.h>

#include <algorithm>
#include <array>
#include <functional>

#include "core/cuda/dnn.h"
#include "core/precision.h"
#include "tests/core/values.h"
#include "tests/cuda_emulator/trial.h"

namespace conclave {
namespace {

using Catch::Contains;

// The convolution of x [1, 3, 3, 4] by w [2, 2, 2, 4] to y [1, 2, 2, 2], in NHWC. A test changes one thing.
struct Call {
  Tensor memory = cuda::to_device(random_values({128}, 1, DType::f32));
  Tensor room = cuda::empty_on_device({2048}, DType::u8);
  cudnnHandle_t handle = nullptr;
  cudnnTensorDescriptor_t x = nullptr, y = nullptr;
  cudnnFilterDescriptor_t w = nullptr;
  cudnnConvolutionDescriptor_t window = nullptr;
  cudnnTensorFormat_t format_of_w = CUDNN_TENSOR_NHWC;
  cudnnDataType_t type = CUDNN_DATA_FLOAT, type_of_w = CUDNN_DATA_FLOAT;
  cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  int images = 1, channels_of_w = 4, width_of_y = 2, stride = 1, dilation = 1;
  const void* pointers[3] = {at(0), at(36), at(68)};  // x, w, y
  float alpha = 1, beta = 0;
  const void* host_alpha = &alpha;
  cudnnConvolutionFwdAlgo_t algorithm = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
  void* workspace = room.raw();
  std::size_t workspace_bytes = 256;
  cudaStream_t stream = nullptr;
  bool binds = true;
  std::function<void(Call&)> then = [](Call&) {};  // before the convolution

  float* at(Index offset) const { return memory.data<float>() + offset; }
  cudnnStatus_t describe() {
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    const auto also = [&](cudnnStatus_t next) { status = std::max(status, next); };
    also(cudnnCreate(&handle));
    if (binds) also(cudnnSetStream(handle, stream));
    also(cudnnCreateTensorDescriptor(&x));
    also(cudnnCreateTensorDescriptor(&y));
    also(cudnnCreateFilterDescriptor(&w));
    also(cudnnCreateConvolutionDescriptor(&window));
    also(cudnnSetTensor4dDescriptor(x, CUDNN_TENSOR_NHWC, type, images, 4, 3, 3));
    also(cudnnSetFilter4dDescriptor(w, type_of_w, format_of_w, 2, channels_of_w, 2, 2));
    also(cudnnSetTensor4dDescriptor(y, CUDNN_TENSOR_NHWC, type, images, 2, 2, width_of_y));
    also(cudnnSetConvolution2dDescriptor(window, 0, 0, stride, stride, dilation, dilation, mode, type));
    also(cudnnSetConvolutionMathType(window, CUDNN_FMA_MATH));
    return status;
  }
  std::string run() {
    cudnnStatus_t status = describe();
    if (status == CUDNN_STATUS_SUCCESS) {
      then(*this);
      status = cudnnConvolutionForward(handle, host_alpha, x, pointers[0], w, pointers[1], window, algorithm,
                                       workspace, workspace_bytes, &beta, y, const_cast<void*>(pointers[2]));
    }
    return cudnnGetErrorString(status);
  }
};

void fails(const char* says, const std::function<void(Call&)>& change) {
  Call call;
  change(call);
  CHECK_THAT(call.run(), Contains(says));
  CHECK_THAT(emulator::take_report(), Contains(says));
}

TEST_CASE("cuDNN: a valid convolution is computed") {
  Call call;
  const Tensor before = cuda::to_host(call.memory);
  call.beta = 0.5;
  emulator::take_traffic();
  emulator::count_traffic(true);
  CHECK(call.run() == "CUDNN_STATUS_SUCCESS");
  wait();
  emulator::count_traffic(false);
  const std::vector<emulator::Traffic> traffic = emulator::take_traffic();
  REQUIRE(traffic.size() == 1);
  CHECK(traffic[0].what == "a convolution");
  const Tensor after = cuda::to_host(call.memory);
  CHECK(emulator::take_report() == "");
  const float *const values = before.data<float>(), *const weights = values + 36;
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      for (int out = 0; out < 2; ++out) {
        const int at = 68 + (i * 2 + j) * 2 + out;
        double sum = 0.5 * values[at];
        for (int a = 0; a < 2; ++a)
          for (int b = 0; b < 2; ++b)
            for (int in = 0; in < 4; ++in)
              sum +=
                  double{values[((i + a) * 3 + j + b) * 4 + in]} * weights[((out * 2 + a) * 2 + b) * 4 + in];
        CHECK(after.data<float>()[at] == Approx(sum));
      }
  const Tensor workspace = cuda::to_host(call.room);
  CHECK(workspace.data<std::uint8_t>()[0] == 0xFF);  // the contents of the workspace are lost
}

TEST_CASE("cuDNN: images, weights and windows that do not match are mistakes") {
  fails("[1, 4, 3, 3] under [2, 3, 2, 2] is no [1, 2, 2, 2]", [](Call& call) { call.channels_of_w = 3; });
  fails("is no [1, 2, 2, 3]", [](Call& call) { call.width_of_y = 3; });
  fails("is no [1, 2, 2, 2]", [](Call& call) { call.stride = 2; });
  fails("w is not of the type computed in", [](Call& call) { call.type_of_w = CUDNN_DATA_DOUBLE; });
  fails("w is not in the order of x", [](Call& call) { call.format_of_w = CUDNN_TENSOR_NCHW; });
  fails("f64 in NHWC, for which there is no algorithm",
        [](Call& call) { call.type = call.type_of_w = CUDNN_DATA_DOUBLE; });
  fails("[0, 4, 3, 3] has no elements", [](Call& call) { call.images = 0; });
  fails("there is no such window", [](Call& call) { call.stride = 0; });
  fails("a window that is not square, or has gaps", [](Call& call) { call.dilation = 2; });
  fails("the window is turned", [](Call& call) { call.mode = CUDNN_CONVOLUTION; });
  fails("y was not described",
        [](Call& call) { call.then = [](Call& now) { cudnnCreateTensorDescriptor(&now.y); }; });
  fails("the window was not described",
        [](Call& call) { call.then = [](Call& now) { cudnnCreateConvolutionDescriptor(&now.window); }; });
}

TEST_CASE("cuDNN: invalid memory of a convolution is a mistake") {
  const Tensor host = Tensor::zeros({64});
  fails("cudnnConvolutionForward x: this is not device memory",
        [&](Call& call) { call.pointers[0] = host.data<float>(); });
  fails("cudnnConvolutionForward w: 128 bytes at offset 400 of 512",
        [](Call& call) { call.pointers[1] = call.at(100); });
  fails("cudnnConvolutionForward y: 32 bytes at offset 496 of 512",
        [](Call& call) { call.pointers[2] = call.at(124); });
  fails("x is not aligned to 16 bytes", [](Call& call) { call.pointers[0] = call.at(1); });
  fails("x and y overlap", [](Call& call) { call.pointers[2] = call.at(32); });
  fails("w and the workspace overlap",
        [](Call& call) { call.pointers[1] = call.room.data<std::uint8_t>() + 128; });
  fails("needs 256 bytes of workspace and gets 255", [](Call& call) { call.workspace_bytes = 255; });
  fails("the workspace is not aligned to 256 bytes",
        [](Call& call) { call.workspace = call.room.data<std::uint8_t>() + 16; });
  fails("the algorithm needs 1099511627776 bytes",
        [](Call& call) { call.algorithm = CUDNN_CONVOLUTION_FWD_ALGO_FFT; });
  fails("there is no algorithm 7",
        [](Call& call) { call.algorithm = static_cast<cudnnConvolutionFwdAlgo_t>(7); });
  fails("alpha is not in the host's memory", [](Call& call) { call.host_alpha = call.at(0); });
}

TEST_CASE("cuDNN: invalid handles and descriptions are mistakes") {
  fails("cudnnConvolutionForward: null is where a cuDNN handle should be",
        [](Call& call) { call.then = [](Call& now) { now.handle = nullptr; }; });
  fails("a destroyed handle is where a cuDNN handle should be",
        [](Call& call) { call.then = [](Call& now) { cudnnDestroy(now.handle); }; });
  fails("y: a destroyed handle is where a description of images should be",
        [](Call& call) { call.then = [](Call& now) { cudnnDestroyTensorDescriptor(now.y); }; });
  fails("w: a destroyed handle is where a description of weights should be",
        [](Call& call) { call.then = [](Call& now) { cudnnDestroyFilterDescriptor(now.w); }; });
  fails("a destroyed handle is where a description of a window should be",
        [](Call& call) { call.then = [](Call& now) { cudnnDestroyConvolutionDescriptor(now.window); }; });
  fails("the handle was not given a stream", [](Call& call) { call.binds = false; });
  fails("a stream is used that was destroyed", [](Call& call) {
    call.then = [](Call& now) {
      const cuda::Stream gone;
      cudnnSetStream(now.handle, gone.handle());
    };
  });
}

TEST_CASE("cuDNN: a nondeterministic algorithm is offered, but its use is a mistake") {
  Call call;
  REQUIRE(call.describe() == CUDNN_STATUS_SUCCESS);
  std::array<cudnnConvolutionBwdDataAlgoPerf_t, 8> found{};
  int count = 0;
  CHECK(cudnnGetConvolutionBackwardDataAlgorithm_v7(call.handle, call.w, call.y, call.window, call.x, 0,
                                                    &count, found.data()) == CUDNN_STATUS_BAD_PARAM);
  CHECK_THAT(emulator::take_report(), Contains("no room for an answer"));
  REQUIRE(cudnnGetConvolutionBackwardDataAlgorithm_v7(call.handle, call.w, call.y, call.window, call.x, 8,
                                                      &count, found.data()) == CUDNN_STATUS_SUCCESS);
  REQUIRE(count == 3);
  CHECK(found[1].determinism == CUDNN_NON_DETERMINISTIC);
  cudnnConvolutionBackwardData(call.handle, &call.alpha, call.w, call.pointers[1], call.y, call.pointers[2],
                               call.window, found[1].algo, call.workspace, 512, &call.beta, call.x,
                               const_cast<void*>(call.pointers[0]));
  CHECK_THAT(emulator::take_report(), Contains("have no fixed order"));
}

TEST_CASE("cuDNN: a change of layout between different shapes is a mistake") {
  Call call;
  REQUIRE(call.describe() == CUDNN_STATUS_SUCCESS);
  const auto change = [&](cudnnTensorDescriptor_t to, const float* from) {
    cudnnTransformTensor(call.handle, &call.alpha, call.x, from, &call.beta, to, call.at(64));
    return emulator::take_report();
  };
  CHECK_THAT(change(call.y, call.at(0)), Contains("[1, 4, 3, 3] is no [1, 2, 2, 2]"));
  CHECK_THAT(change(call.x, call.at(40)), Contains("x and y overlap"));
  CHECK(change(call.x, call.at(0)) == "");
}

// A convolution by the project's own function: an image of 4 x 4, one channel, a window of 1 x 1.
cuda::Convolution<float> square(const Tensor& x, const Tensor& weight, const Tensor& y) {
  return {.images = 1,
          .height = 4,
          .width = 4,
          .in = 1,
          .out_height = 4,
          .out_width = 4,
          .out = 1,
          .size = 1,
          .stride = 1,
          .x = x.data<float>(),
          .weight = weight.data<float>(),
          .y = y.data<float>()};
}

TEST_CASE("a mistake in a convolution becomes an Error that describes it") {
  const Tensor values = cuda::to_device(ramp(16)), weight = cuda::to_device(ramp(4)),
               y = cuda::empty_on_device({16});
  CHECK_THROWS_WITH(convolve("square", square(values, weight, values)),
                    Contains("square: cuDNN says: cudnnConvolutionForward: x and y overlap"));
  CHECK_THAT(emulator::take_report(), Contains("overlap"));
  cuda::Convolution<float> many = square(values, weight, y);
  many.images = Index{1} << 28;
  CHECK_THROWS_WITH(convolve("square", many),
                    Contains("square: cuDNN takes no tensor of 4294967296 elements"));
  many.images = Index{1} << 24;  // so many that every workspace is larger than allowed
  CHECK_THROWS_WITH(convolve_backward_input("square", many),
                    Contains("square: cuDNN has no deterministic algorithm for") &&
                        Contains("16777216 images of 4 x 4, 1 channels to 1, of f32") &&
                        Contains(" of workspace"));
  cuda::Convolution<float> other = square(values, weight, y);
  other.out_width = 3;
  CHECK_THROWS_WITH(convolve("square", other), Contains("square: cuDNN says: cudnnGetConvolution"));
  CHECK_THAT(emulator::take_report(), Contains("is no [1, 1, 4, 3]"));
  CHECK_NOTHROW(convolve("square", square(values, weight, y)));
}

TEST_CASE("a convolution whose workspace does not fit the device takes an algorithm with less") {
  constexpr Index kImages = Index{1} << 17;
  const Tensor x = cuda::empty_on_device({16 * kImages}), weight = cuda::to_device(ramp(1)),
               y = cuda::empty_on_device({16 * kImages});
  x.fill(3);
  weight.fill(2);
  cuda::Convolution<float> many = square(x, weight, y);
  many.images = kImages;
  const auto planned = [&] {
    const std::size_t before = emulator::counters().algorithms;
    convolve("square", many);
    CHECK(cuda::to_host(y).data<float>()[16 * kImages - 1] == 6);
    return emulator::counters().algorithms - before;
  };
  emulator::set_memory(emulator::counters().live_bytes +
                       (std::size_t{2} << 20));  // 16 MiB would be asked for
  CHECK(planned() == 2);
  emulator::set_memory(std::size_t{4} << 30);
  CHECK(planned() == 0);
  many.images = kImages / 2 + 1;  // another plan, which now does not ask for so much
  emulator::set_memory(emulator::counters().live_bytes + (std::size_t{2} << 20));
  convolve("square", many);
  CHECK(emulator::take_report() == "");
  emulator::set_memory(std::size_t{4} << 30);
}

TEST_CASE("a convolution is planned once per shape and rounds to TF32 on request") {
  const Tensor x = cuda::to_device(Tensor::zeros({16})), weight = cuda::to_device(ramp(4)),
               y = cuda::empty_on_device({16});
  x.fill(1 + 0x1p-20);
  weight.fill(1);
  const auto convolved = [&] {
    convolve("square", square(x, weight, y));
    return cuda::to_host(y).data<float>()[0];
  };
  CHECK(convolved() == 1 + 0x1p-20f);
  const std::size_t algorithms = emulator::counters().algorithms;
  CHECK(convolved() == 1 + 0x1p-20f);
  CHECK(emulator::counters().algorithms == algorithms);
  for (const Precision precision : {Precision::tf32, Precision::bf16, Precision::f32}) {
    set_precision(precision);
    CHECK(convolved() == (precision == Precision::tf32 ? 1.0f : 1 + 0x1p-20f));
  }
  CHECK(emulator::counters().algorithms == algorithms + 1);
}

TEST_CASE("a missing wait for a convolution on another stream is detected") {
  const Tensor x = cuda::to_device(ramp(16)), weight = cuda::to_device(ramp(4)),
               y = cuda::to_device(ramp(16)), result = Tensor::empty({16});
  const cuda::Stream producer, consumer;
  {
    const cuda::StreamScope scope(producer);
    convolve("square", square(x, weight, y));
  }
  {
    const cuda::StreamScope scope(consumer);
    cuda::copy(y, result);
  }
  producer.synchronize();
  CHECK_THROWS_WITH(consumer.synchronize(), Contains("a convolution on another stream wrote"));
  emulator::take_report();
}

}  // namespace
}  // namespace conclave

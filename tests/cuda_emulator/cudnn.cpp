// Emulates cuDNN. Convolutions run in stream order and are computed in f64. Every argument is checked: a
// violation of the library's rules or documentation is a report, even if the library itself would compute
// something.
#include <cudnn.h>

#include <array>
#include <optional>

#include "tests/cuda_emulator/library.h"

namespace conclave::emulator {
namespace {

// ---- Objects

/// Images [n, c, h, w], or the weights of a filter, with `n` output channels.
struct Images {
  cudnnTensorFormat_t format = CUDNN_TENSOR_NCHW;
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  int n = 0, c = 0, h = 0, w = 0;  // 0: not set

  bool operator==(const Images&) const = default;
  bool same_extents(const Images& other) const {
    return n == other.n && c == other.c && h == other.h && w == other.w;
  }
  std::size_t count() const {
    return static_cast<std::size_t>(n) * static_cast<std::size_t>(c) * static_cast<std::size_t>(h) *
           static_cast<std::size_t>(w);
  }
  std::size_t bytes() const { return count() * (type == CUDNN_DATA_DOUBLE ? sizeof(double) : sizeof(float)); }
  std::size_t at(int i, int channel, int row, int column) const {
    const std::array<int, 4> sides = format == CUDNN_TENSOR_NHWC ? std::array{n, h, w, c}
                                                                 : std::array{n, c, h, w},
                             place = format == CUDNN_TENSOR_NHWC ? std::array{i, row, column, channel}
                                                                 : std::array{i, channel, row, column};
    std::size_t result = 0;
    for (std::size_t d = 0; d < 4; ++d)
      result = result * static_cast<std::size_t>(sides[d]) + static_cast<std::size_t>(place[d]);
    return result;
  }
  std::string text() const {
    return "[" + std::to_string(n) + ", " + std::to_string(c) + ", " + std::to_string(h) + ", " +
           std::to_string(w) + "]";
  }
};

struct Window {
  int padding = 0, stride = 0;  // stride 0: not set
  cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  cudnnMathType_t math = CUDNN_DEFAULT_MATH;

  bool operator==(const Window&) const = default;
};

struct Handle {
  std::optional<cudaStream_t> stream;
};

// Never destroyed, because threads destroy their handles late.
auto& handles = *new Objects<cudnnHandle_t, Handle>("a cuDNN handle");
auto& tensors = *new Objects<cudnnTensorDescriptor_t, Images>("a description of images");
auto& filters = *new Objects<cudnnFilterDescriptor_t, Images>("a description of weights");
auto& windows = *new Objects<cudnnConvolutionDescriptor_t, Window>("a description of a window");

template <class Body>
cudnnStatus_t call(Body&& body) {
  return call_of_library(body, CUDNN_STATUS_SUCCESS, CUDNN_STATUS_BAD_PARAM, CUDNN_STATUS_EXECUTION_FAILED);
}

void set(Images& images, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c, int h, int w) {
  if (n < 1 || c < 1 || h < 1 || w < 1)
    throw Report("cuDNN: " + Images{format, type, n, c, h, w}.text() + " has no elements");
  images = {format, type, n, c, h, w};
}

// ---- Checks of a convolution

enum class Direction { forward, data, filter };
constexpr std::array kNames{"x", "w", "y"};
constexpr std::size_t result_of(Direction direction) {
  return direction == Direction::forward ? 2 : direction == Direction::data ? 0 : 1;
}

struct Problem {
  std::array<Images, 3> operands;  // x, w, y
  Window window;

  // NHWC is supported in f32 only.
  bool supported() const {
    return operands[0].type == CUDNN_DATA_FLOAT || operands[0].format == CUDNN_TENSOR_NCHW;
  }
  std::size_t workspace(Direction direction) const {
    return (operands[result_of(direction)].count() * sizeof(double) + 255) / 256 * 256;
  }
};

Problem problem_of(const std::string& doing, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                   cudnnConvolutionDescriptor_t window, cudnnTensorDescriptor_t y) {
  const Problem problem{
      {tensors.at(x, doing + ": x"), filters.at(w, doing + ": w"), tensors.at(y, doing + ": y")},
      windows.at(window, doing)};
  const auto& [in, weight, out] = problem.operands;
  const auto& [padding, stride, compute, math] = problem.window;
  for (std::size_t i = 0; i < 3; ++i) {
    const Images& operand = problem.operands[i];
    const std::string name = doing + ": " + kNames[i];
    if (operand.n == 0) throw Report(name + " was not described");
    if (operand.type != compute) throw Report(name + " is not of the type computed in");
    if (operand.format != in.format) throw Report(name + " is not in the order of x");
  }
  if (stride == 0) throw Report(doing + ": the window was not described");
  const auto positions = [&](int side, int size) { return (side + 2 * padding - size) / stride + 1; };
  const Images expected{
      out.format, out.type, in.n, weight.n, positions(in.h, weight.h), positions(in.w, weight.w)};
  if (weight.c != in.c || !out.same_extents(expected))
    throw Report(doing + ": " + in.text() + " under " + weight.text() + " is no " + out.text());
  return problem;
}

// The answers of the heuristics: a fast algorithm with a huge workspace, for the backward directions one
// whose sums have no fixed order, one with a workspace, and forward a slow one without.
struct Candidate {
  int algorithm;
  std::size_t workspace;
  cudnnDeterminism_t determinism;
};
constexpr std::size_t kTooMuch = std::size_t{1} << 40;

std::vector<Candidate> candidates(Direction direction, const Problem& problem) {
  const std::size_t needed = problem.workspace(direction);
  switch (direction) {
    case Direction::forward:
      return {{CUDNN_CONVOLUTION_FWD_ALGO_FFT, kTooMuch, CUDNN_DETERMINISTIC},
              {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, needed, CUDNN_DETERMINISTIC},
              {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, 0, CUDNN_DETERMINISTIC}};
    case Direction::data:
      return {{CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT, kTooMuch, CUDNN_DETERMINISTIC},
              {CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, needed, CUDNN_NON_DETERMINISTIC},
              {CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, needed, CUDNN_DETERMINISTIC}};
    case Direction::filter:
      break;
  }
  return {{CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT, kTooMuch, CUDNN_DETERMINISTIC},
          {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, needed, CUDNN_NON_DETERMINISTIC},
          {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, needed, CUDNN_DETERMINISTIC}};
}

template <class Algorithm>
void answer(const std::string& doing, cudnnHandle_t handle, Direction direction, const Problem& problem,
            int wanted, int* found, cudnnEmulatedAlgoPerf_t<Algorithm>* results) {
  handles.at(handle, doing);
  if (wanted < 1 || !found || !results) throw Report(doing + ": no room for an answer");
  *found = 0;
  for (const Candidate& candidate : candidates(direction, problem)) {
    if (*found == wanted) break;
    results[(*found)++] = {.algo = static_cast<Algorithm>(candidate.algorithm),
                           .status = problem.supported() ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED,
                           .time = -1,
                           .memory = candidate.workspace,
                           .determinism = candidate.determinism,
                           .mathType = problem.window.math};
  }
  ++counts.algorithms;
}

Candidate candidate_of(const std::string& doing, Direction direction, const Problem& problem, int algorithm) {
  if (!problem.supported()) throw Report(doing + ": f64 in NHWC, for which there is no algorithm");
  for (const Candidate& candidate : candidates(direction, problem))
    if (candidate.algorithm == algorithm) return candidate;
  throw Report(doing + ": there is no algorithm " + std::to_string(algorithm));
}

double factor(const std::string& doing, const char* name, const void* value, cudnnDataType_t type) {
  if (!value || in_device_memory(address(value)))
    throw Report(doing + ": " + name + " is not in the host's memory");
  return type == CUDNN_DATA_DOUBLE ? *static_cast<const double*>(value)
                                   : double{*static_cast<const float*>(value)};
}

cudaStream_t stream_of(const std::string& doing, cudnnHandle_t handle) {
  const std::optional<cudaStream_t> stream = handles.at(handle, doing).stream;
  if (!stream) throw Report(doing + ": the handle was not given a stream");
  return *stream;
}

// Queues run(), which reads `reads` and writes `writes`.
template <class Run>
void queue_operation(const std::string& doing, cudaStream_t stream, const char* name, std::vector<Area> reads,
                     std::vector<Area> writes, Run run) {
  for (const Area& area : writes) area.expect_on_device(doing);
  for (std::size_t i = 0; i < writes.size(); ++i) {
    std::vector<Area> others(writes.begin() + static_cast<std::ptrdiff_t>(i) + 1, writes.end());
    others.insert(others.end(), reads.begin(), reads.end());
    for (const Area& other : others) {
      other.expect_on_device(doing);
      if (overlap(writes[i], other) && !(other.name == writes[i].name))
        throw Report(doing + ": " + other.name + " and " + writes[i].name + " overlap");
    }
  }
  queue(stream, name, [=](std::uint32_t) {
    for (const auto* const areas : {&reads, &writes})
      for (const Area& area : *areas) {
        area.expect_on_device(doing);
        area.see(areas == &writes);
      }
    run();
    ++counts.launches;
  });
}

// ---- Computation of a convolution

double load(const void* memory, const Images& images, std::size_t at, cudnnMathType_t math) {
  if (images.type == CUDNN_DATA_DOUBLE) return static_cast<const double*>(memory)[at];
  const float value = static_cast<const float*>(memory)[at];
  return math == CUDNN_DEFAULT_MATH ? as_tf32(value) : double{value};
}

// to = alpha value + beta to
void store(void* memory, const Images& images, std::size_t at, double alpha, double value, double beta) {
  const auto put = [&](auto& to) {
    const double sum = alpha * value + (beta != 0 ? beta * static_cast<double>(to) : 0);
    to = static_cast<std::remove_reference_t<decltype(to)>>(sum);
  };
  if (images.type == CUDNN_DATA_DOUBLE)
    put(static_cast<double*>(memory)[at]);
  else
    put(static_cast<float*>(memory)[at]);
}

void compute(const Problem& problem, Direction direction, double alpha, double beta,
             const std::array<void*, 3>& memory) {
  const auto& [x, w, y] = problem.operands;
  const auto& [padding, stride, type, math] = problem.window;
  const std::size_t result = result_of(direction);
  std::vector<double> sums(problem.operands[result].count());
  for (int n = 0; n < y.n; ++n)
    for (int i = 0; i < y.h; ++i)
      for (int j = 0; j < y.w; ++j)
        for (int a = 0; a < w.h; ++a)
          for (int b = 0; b < w.w; ++b) {
            const int row = i * stride + a - padding, column = j * stride + b - padding;
            if (row < 0 || row >= x.h || column < 0 || column >= x.w) continue;
            for (int out = 0; out < w.n; ++out)
              for (int in = 0; in < w.c; ++in) {
                const std::array<std::size_t, 3> at{x.at(n, in, row, column), w.at(out, in, a, b),
                                                    y.at(n, out, i, j)};
                double product = 1;
                for (std::size_t k = 0; k < 3; ++k)
                  if (k != result) product *= load(memory[k], problem.operands[k], at[k], math);
                sums[at[result]] += product;
              }
          }
  for (std::size_t i = 0; i < sums.size(); ++i)
    store(memory[result], problem.operands[result], i, alpha, sums[i], beta);
}

void convolve(const std::string& doing, cudnnHandle_t handle, Direction direction, const Problem& problem,
              int algorithm, const std::array<const void*, 3>& operands, const void* alpha, const void* beta,
              void* workspace, std::size_t workspace_bytes) {
  count_call();
  const cudaStream_t stream = stream_of(doing, handle);
  const Candidate chosen = candidate_of(doing, direction, problem, algorithm);
  if (chosen.determinism == CUDNN_NON_DETERMINISTIC)
    throw Report(doing + ": the sums of this algorithm have no fixed order, on which the project relies");
  const double scale = factor(doing, "alpha", alpha, problem.window.compute),
               keep = factor(doing, "beta", beta, problem.window.compute);
  if (workspace_bytes < chosen.workspace)
    throw Report(doing + ": the algorithm needs " + std::to_string(chosen.workspace) +
                 " bytes of workspace and gets " + std::to_string(workspace_bytes));
  if (address(workspace) % 256 != 0) throw Report(doing + ": the workspace is not aligned to 256 bytes");

  const std::size_t result = result_of(direction);
  std::array<void*, 3> memory{};
  std::vector<Area> reads, writes{Area::of("the workspace", workspace, chosen.workspace)};
  writes.back().is_operand = false;
  for (std::size_t i = 0; i < 3; ++i) {
    memory[i] = const_cast<void*>(operands[i]);
    const Area area = Area::of(kNames[i], operands[i], problem.operands[i].bytes());
    if (address(operands[i]) % 16 != 0)
      throw Report(doing + ": " + kNames[i] + " is not aligned to 16 bytes");
    if (i == result) writes.push_back(area);
    if (i != result || keep != 0) reads.push_back(area);
  }
  queue_operation(doing, stream, "a convolution", reads, writes, [=] {
    std::memset(workspace, kPoison, chosen.workspace);
    compute(problem, direction, scale, keep, memory);
  });
}

}  // namespace
}  // namespace conclave::emulator

// ---- cuDNN's functions

using namespace conclave::emulator;

const char* cudnnGetErrorString(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_SUCCESS:
      return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_NOT_SUPPORTED:
      return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_BAD_PARAM:
    case CUDNN_STATUS_EXECUTION_FAILED:
      break;
  }
  return report_so_far().empty() ? "CUDNN_STATUS_EXECUTION_FAILED" : report_so_far().c_str();
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  return call([&] { *handle = handles.create({}); });
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  return call([&] { handles.destroy(handle, "cudnnDestroy"); });
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  return call([&] { handles.at(handle, "cudnnSetStream").stream = stream; });
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* tensor) {
  return call([&] { *tensor = tensors.create({}); });
}
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t tensor) {
  return call([&] { tensors.destroy(tensor, "cudnnDestroyTensorDescriptor"); });
}
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t tensor, cudnnTensorFormat_t format,
                                         cudnnDataType_t type, int n, int c, int h, int w) {
  return call([&] { set(tensors.at(tensor, "cudnnSetTensor4dDescriptor"), format, type, n, c, h, w); });
}
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* filter) {
  return call([&] { *filter = filters.create({}); });
}
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t filter) {
  return call([&] { filters.destroy(filter, "cudnnDestroyFilterDescriptor"); });
}
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t filter, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int k, int c, int h, int w) {
  return call([&] { set(filters.at(filter, "cudnnSetFilter4dDescriptor"), format, type, k, c, h, w); });
}
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* convolution) {
  return call([&] { *convolution = windows.create({}); });
}
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t convolution) {
  return call([&] { windows.destroy(convolution, "cudnnDestroyConvolutionDescriptor"); });
}
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t convolution, int pad_h, int pad_w,
                                              int stride_h, int stride_w, int dilation_h, int dilation_w,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t compute) {
  const std::string doing = "cudnnSetConvolution2dDescriptor";
  return call([&] {
    Window& window = windows.at(convolution, doing);
    if (pad_h < 0 || stride_h < 1) throw Report(doing + ": there is no such window");
    if (pad_h != pad_w || stride_h != stride_w || dilation_h != 1 || dilation_w != 1)
      throw Report(doing + ": a window that is not square, or has gaps, which the project has not");
    if (mode != CUDNN_CROSS_CORRELATION) throw Report(doing + ": the window is turned");
    window.padding = pad_h;
    window.stride = stride_h;
    window.compute = compute;
  });
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t convolution, cudnnMathType_t math) {
  return call([&] { windows.at(convolution, "cudnnSetConvolutionMathType").math = math; });
}

cudnnStatus_t cudnnTransformTensor(cudnnHandle_t handle, const void* alpha, cudnnTensorDescriptor_t x_tensor,
                                   const void* x, const void* beta, cudnnTensorDescriptor_t y_tensor,
                                   void* y) {
  const std::string doing = "cudnnTransformTensor";
  return call([&] {
    count_call();
    const cudaStream_t stream = stream_of(doing, handle);
    const Images from = tensors.at(x_tensor, doing + ": x"), to = tensors.at(y_tensor, doing + ": y");
    if (!from.same_extents(to) || from.type != to.type)
      throw Report(doing + ": " + from.text() + " is no " + to.text() + ", or of another type");
    const double scale = factor(doing, "alpha", alpha, to.type), keep = factor(doing, "beta", beta, to.type);
    const Area result = Area::of("y", y, to.bytes());
    std::vector<Area> reads{Area::of("x", x, from.bytes())};
    if (keep != 0) reads.push_back(result);
    queue_operation(doing, stream, "a change of layout", reads, {result}, [=] {
      for (int n = 0; n < to.n; ++n)
        for (int c = 0; c < to.c; ++c)
          for (int h = 0; h < to.h; ++h)
            for (int w = 0; w < to.w; ++w)
              store(y, to, to.at(n, c, h, w), scale, load(x, from, from.at(n, c, h, w), CUDNN_FMA_MATH),
                    keep);
    });
  });
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t handle, cudnnTensorDescriptor_t x,
                                                     cudnnFilterDescriptor_t w,
                                                     cudnnConvolutionDescriptor_t convolution,
                                                     cudnnTensorDescriptor_t y, int wanted, int* found,
                                                     cudnnConvolutionFwdAlgoPerf_t* results) {
  const std::string doing = "cudnnGetConvolutionForwardAlgorithm_v7";
  return call([&] {
    answer(doing, handle, Direction::forward, problem_of(doing, x, w, convolution, y), wanted, found,
           results);
  });
}
cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t handle, cudnnTensorDescriptor_t x,
                                                      cudnnFilterDescriptor_t w,
                                                      cudnnConvolutionDescriptor_t convolution,
                                                      cudnnTensorDescriptor_t y,
                                                      cudnnConvolutionFwdAlgo_t algorithm,
                                                      std::size_t* bytes) {
  const std::string doing = "cudnnGetConvolutionForwardWorkspaceSize";
  return call([&] {
    handles.at(handle, doing);
    *bytes =
        candidate_of(doing, Direction::forward, problem_of(doing, x, w, convolution, y), algorithm).workspace;
  });
}
cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void* alpha,
                                      cudnnTensorDescriptor_t x_tensor, const void* x,
                                      cudnnFilterDescriptor_t w_filter, const void* w,
                                      cudnnConvolutionDescriptor_t convolution,
                                      cudnnConvolutionFwdAlgo_t algorithm, void* workspace,
                                      std::size_t workspace_bytes, const void* beta,
                                      cudnnTensorDescriptor_t y_tensor, void* y) {
  const std::string doing = "cudnnConvolutionForward";
  return call([&] {
    convolve(doing, handle, Direction::forward, problem_of(doing, x_tensor, w_filter, convolution, y_tensor),
             algorithm, {x, w, y}, alpha, beta, workspace, workspace_bytes);
  });
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t handle, cudnnFilterDescriptor_t w,
                                                          cudnnTensorDescriptor_t dy,
                                                          cudnnConvolutionDescriptor_t convolution,
                                                          cudnnTensorDescriptor_t dx, int wanted, int* found,
                                                          cudnnConvolutionBwdDataAlgoPerf_t* results) {
  const std::string doing = "cudnnGetConvolutionBackwardDataAlgorithm_v7";
  return call([&] {
    answer(doing, handle, Direction::data, problem_of(doing, dx, w, convolution, dy), wanted, found, results);
  });
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t handle, cudnnFilterDescriptor_t w,
                                                           cudnnTensorDescriptor_t dy,
                                                           cudnnConvolutionDescriptor_t convolution,
                                                           cudnnTensorDescriptor_t dx,
                                                           cudnnConvolutionBwdDataAlgo_t algorithm,
                                                           std::size_t* bytes) {
  const std::string doing = "cudnnGetConvolutionBackwardDataWorkspaceSize";
  return call([&] {
    handles.at(handle, doing);
    *bytes =
        candidate_of(doing, Direction::data, problem_of(doing, dx, w, convolution, dy), algorithm).workspace;
  });
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void* alpha,
                                           cudnnFilterDescriptor_t w_filter, const void* w,
                                           cudnnTensorDescriptor_t dy_tensor, const void* dy,
                                           cudnnConvolutionDescriptor_t convolution,
                                           cudnnConvolutionBwdDataAlgo_t algorithm, void* workspace,
                                           std::size_t workspace_bytes, const void* beta,
                                           cudnnTensorDescriptor_t dx_tensor, void* dx) {
  const std::string doing = "cudnnConvolutionBackwardData";
  return call([&] {
    convolve(doing, handle, Direction::data, problem_of(doing, dx_tensor, w_filter, convolution, dy_tensor),
             algorithm, {dx, w, dy}, alpha, beta, workspace, workspace_bytes);
  });
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t handle, cudnnTensorDescriptor_t x,
                                                            cudnnTensorDescriptor_t dy,
                                                            cudnnConvolutionDescriptor_t convolution,
                                                            cudnnFilterDescriptor_t dw, int wanted,
                                                            int* found,
                                                            cudnnConvolutionBwdFilterAlgoPerf_t* results) {
  const std::string doing = "cudnnGetConvolutionBackwardFilterAlgorithm_v7";
  return call([&] {
    answer(doing, handle, Direction::filter, problem_of(doing, x, dw, convolution, dy), wanted, found,
           results);
  });
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t handle, cudnnTensorDescriptor_t x,
                                                             cudnnTensorDescriptor_t dy,
                                                             cudnnConvolutionDescriptor_t convolution,
                                                             cudnnFilterDescriptor_t dw,
                                                             cudnnConvolutionBwdFilterAlgo_t algorithm,
                                                             std::size_t* bytes) {
  const std::string doing = "cudnnGetConvolutionBackwardFilterWorkspaceSize";
  return call([&] {
    handles.at(handle, doing);
    *bytes = candidate_of(doing, Direction::filter, problem_of(doing, x, dw, convolution, dy), algorithm)
                 .workspace;
  });
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void* alpha,
                                             cudnnTensorDescriptor_t x_tensor, const void* x,
                                             cudnnTensorDescriptor_t dy_tensor, const void* dy,
                                             cudnnConvolutionDescriptor_t convolution,
                                             cudnnConvolutionBwdFilterAlgo_t algorithm, void* workspace,
                                             std::size_t workspace_bytes, const void* beta,
                                             cudnnFilterDescriptor_t dw_filter, void* dw) {
  const std::string doing = "cudnnConvolutionBackwardFilter";
  return call([&] {
    convolve(doing, handle, Direction::filter, problem_of(doing, x_tensor, dw_filter, convolution, dy_tensor),
             algorithm, {x, dw, dy}, alpha, beta, workspace, workspace_bytes);
  });
}

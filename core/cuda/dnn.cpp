#include "core/cuda/dnn.h"

#include <cudnn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>

#include "core/arena.h"
#include "core/cuda/launch.h"
#include "core/cuda/scratch.h"
#include "core/memory.h"
#include "core/precision.h"

namespace conclave::cuda {
namespace {

// On an H200, an f32 convolution of 256 images of 56 x 56 with 128 channels takes 6 ms with 0.8 GiB of
// workspace, and 23 ms without.
constexpr std::size_t kMostWorkspace = std::size_t{1} << 30;
// What algorithms may take now: less, once the device had too little memory for a workspace.
std::atomic<std::size_t> most_workspace = kMostWorkspace;
constexpr std::uintptr_t kAlignment = 16;  // of operands, as the library's fast kernels need it

void check(cudnnStatus_t status, const char* operation) {
  require(status == CUDNN_STATUS_SUCCESS, "{}: cuDNN says: {}", operation, cudnnGetErrorString(status));
}

struct Destroy {
  void operator()(cudnnHandle_t handle) const { cudnnDestroy(handle); }
  void operator()(cudnnTensorDescriptor_t tensor) const { cudnnDestroyTensorDescriptor(tensor); }
  void operator()(cudnnFilterDescriptor_t filter) const { cudnnDestroyFilterDescriptor(filter); }
  void operator()(cudnnConvolutionDescriptor_t window) const { cudnnDestroyConvolutionDescriptor(window); }
};
template <class Handle>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy>;

template <class Handle>
Owned<Handle> create(cudnnStatus_t (*function)(Handle*)) {
  Handle handle = nullptr;
  check(function(&handle), "creating an object of cuDNN's");
  return Owned<Handle>(handle);
}

// Everything that the choice of an algorithm depends on.
struct Key {
  Index images, height, width, in, out_height, out_width, out;
  Index size, stride, padding;
  DType type;
  bool tf32, aligned;

  auto operator<=>(const Key&) const = default;
};

// Extents of images, or of weights, in the library's order.
struct Extents {
  Index images, channels, height, width;
  Index numel() const { return images * channels * height * width; }
};

// Of x, weight and y; operands have this order everywhere.
std::array<Extents, 3> extents_of(const Key& key) {
  return {Extents{key.images, key.in, key.height, key.width}, Extents{key.out, key.in, key.size, key.size},
          Extents{key.images, key.out, key.out_height, key.out_width}};
}

cudnnDataType_t library_type(DType type) { return type == DType::f64 ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT; }

void describe(const Owned<cudnnTensorDescriptor_t>& tensor, const Extents& extents, DType type,
              cudnnTensorFormat_t format) {
  check(cudnnSetTensor4dDescriptor(tensor.get(), format, library_type(type), static_cast<int>(extents.images),
                                   static_cast<int>(extents.channels), static_cast<int>(extents.height),
                                   static_cast<int>(extents.width)),
        "describing images");
}

struct Descriptions {
  Owned<cudnnTensorDescriptor_t> x = create(cudnnCreateTensorDescriptor),
                                 y = create(cudnnCreateTensorDescriptor);
  Owned<cudnnFilterDescriptor_t> weight = create(cudnnCreateFilterDescriptor);
  Owned<cudnnConvolutionDescriptor_t> window = create(cudnnCreateConvolutionDescriptor);

  Descriptions(const Key& key, cudnnTensorFormat_t format) {
    const auto [x_extents, weight_extents, y_extents] = extents_of(key);
    describe(x, x_extents, key.type, format);
    describe(y, y_extents, key.type, format);
    check(cudnnSetFilter4dDescriptor(weight.get(), library_type(key.type), format, static_cast<int>(key.out),
                                     static_cast<int>(key.in), static_cast<int>(key.size),
                                     static_cast<int>(key.size)),
          "describing weights");
    const auto padding = static_cast<int>(key.padding), stride = static_cast<int>(key.stride);
    check(cudnnSetConvolution2dDescriptor(window.get(), padding, padding, stride, stride, 1, 1,
                                          CUDNN_CROSS_CORRELATION, library_type(key.type)),
          "describing a window");
    // The default math type allows TF32.
    check(cudnnSetConvolutionMathType(window.get(), key.tf32 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH),
          "describing a window");
  }
};

// The library's three convolutions: separate functions that take the same arguments in different orders.
// Operands are x, weight and y; kResult is the index of the result.

struct Forward {
  using Found = cudnnConvolutionFwdAlgoPerf_t;
  static constexpr std::size_t kResult = 2;
  static cudnnStatus_t find(cudnnHandle_t handle, const Descriptions& of, int most, int* count,
                            Found* found) {
    return cudnnGetConvolutionForwardAlgorithm_v7(handle, of.x.get(), of.weight.get(), of.window.get(),
                                                  of.y.get(), most, count, found);
  }
  static cudnnStatus_t workspace(cudnnHandle_t handle, const Descriptions& of,
                                 cudnnConvolutionFwdAlgo_t algorithm, std::size_t* bytes) {
    return cudnnGetConvolutionForwardWorkspaceSize(handle, of.x.get(), of.weight.get(), of.window.get(),
                                                   of.y.get(), algorithm, bytes);
  }
  static cudnnStatus_t run(cudnnHandle_t handle, const Descriptions& of, cudnnConvolutionFwdAlgo_t algorithm,
                           const std::array<void*, 3>& operands, const void* alpha, const void* beta,
                           void* workspace, std::size_t bytes) {
    return cudnnConvolutionForward(handle, alpha, of.x.get(), operands[0], of.weight.get(), operands[1],
                                   of.window.get(), algorithm, workspace, bytes, beta, of.y.get(),
                                   operands[2]);
  }
};

struct BackwardInput {
  using Found = cudnnConvolutionBwdDataAlgoPerf_t;
  static constexpr std::size_t kResult = 0;
  static cudnnStatus_t find(cudnnHandle_t handle, const Descriptions& of, int most, int* count,
                            Found* found) {
    return cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, of.weight.get(), of.y.get(), of.window.get(),
                                                       of.x.get(), most, count, found);
  }
  static cudnnStatus_t workspace(cudnnHandle_t handle, const Descriptions& of,
                                 cudnnConvolutionBwdDataAlgo_t algorithm, std::size_t* bytes) {
    return cudnnGetConvolutionBackwardDataWorkspaceSize(handle, of.weight.get(), of.y.get(), of.window.get(),
                                                        of.x.get(), algorithm, bytes);
  }
  static cudnnStatus_t run(cudnnHandle_t handle, const Descriptions& of,
                           cudnnConvolutionBwdDataAlgo_t algorithm, const std::array<void*, 3>& operands,
                           const void* alpha, const void* beta, void* workspace, std::size_t bytes) {
    return cudnnConvolutionBackwardData(handle, alpha, of.weight.get(), operands[1], of.y.get(), operands[2],
                                        of.window.get(), algorithm, workspace, bytes, beta, of.x.get(),
                                        operands[0]);
  }
};

struct BackwardWeight {
  using Found = cudnnConvolutionBwdFilterAlgoPerf_t;
  static constexpr std::size_t kResult = 1;
  static cudnnStatus_t find(cudnnHandle_t handle, const Descriptions& of, int most, int* count,
                            Found* found) {
    return cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, of.x.get(), of.y.get(), of.window.get(),
                                                         of.weight.get(), most, count, found);
  }
  static cudnnStatus_t workspace(cudnnHandle_t handle, const Descriptions& of,
                                 cudnnConvolutionBwdFilterAlgo_t algorithm, std::size_t* bytes) {
    return cudnnGetConvolutionBackwardFilterWorkspaceSize(handle, of.x.get(), of.y.get(), of.window.get(),
                                                          of.weight.get(), algorithm, bytes);
  }
  static cudnnStatus_t run(cudnnHandle_t handle, const Descriptions& of,
                           cudnnConvolutionBwdFilterAlgo_t algorithm, const std::array<void*, 3>& operands,
                           const void* alpha, const void* beta, void* workspace, std::size_t bytes) {
    return cudnnConvolutionBackwardFilter(handle, alpha, of.x.get(), operands[0], of.y.get(), operands[2],
                                          of.window.get(), algorithm, workspace, bytes, beta, of.weight.get(),
                                          operands[1]);
  }
};

// Descriptors of the operands (NHWC) and of their copies (NCHW).
struct Copies {
  std::array<Extents, 3> extents;
  std::array<Owned<cudnnTensorDescriptor_t>, 3> ours, theirs;

  explicit Copies(const Key& key) : extents(extents_of(key)) {
    for (std::size_t i = 0; i < 3; ++i) {
      ours[i] = create(cudnnCreateTensorDescriptor);
      theirs[i] = create(cudnnCreateTensorDescriptor);
      describe(ours[i], extents[i], key.type, CUDNN_TENSOR_NHWC);
      describe(theirs[i], extents[i], key.type, CUDNN_TENSOR_NCHW);
    }
  }
};

template <class Direction>
struct Plan {
  Descriptions of;
  decltype(Direction::Found::algo) algorithm;
  std::size_t workspace;
  std::optional<Copies> copies;  ///< if present, the library convolves these
};

template <class Direction>
std::optional<Plan<Direction>> plan_in(const char* operation, cudnnHandle_t handle, const Key& key,
                                       cudnnTensorFormat_t format) {
  Descriptions of(key, format);
  std::array<typename Direction::Found, 16> found{};
  int count = 0;
  const cudnnStatus_t status =
      Direction::find(handle, of, static_cast<int>(found.size()), &count, found.data());
  if (status / 1000 == CUDNN_STATUS_NOT_SUPPORTED / 1000) return std::nullopt;  // one code per reason
  check(status, operation);
  for (const auto& candidate : std::span(found).first(static_cast<std::size_t>(count))) {  // fastest first
    std::size_t bytes = 0;
    if (candidate.status == CUDNN_STATUS_SUCCESS && candidate.determinism == CUDNN_DETERMINISTIC &&
        Direction::workspace(handle, of, candidate.algo, &bytes) == CUDNN_STATUS_SUCCESS &&
        bytes <= most_workspace)
      return Plan<Direction>{std::move(of), candidate.algo, bytes, std::nullopt};
  }
  return std::nullopt;
}

// In NHWC, the library supports f32 with operands aligned to 16 bytes. For anything else (f64 in tests, and
// views that begin within another tensor) it gets copies in NCHW.
template <class Direction>
Plan<Direction> plan_for(const char* operation, cudnnHandle_t handle, const Key& key) {
  for (const Extents& extents : extents_of(key))
    require(extents.numel() <= std::numeric_limits<int>::max(),
            "{}: cuDNN takes no tensor of {} elements; use fewer images at a time", operation,
            extents.numel());
  std::optional<Plan<Direction>> plan;
  if (key.aligned) plan = plan_in<Direction>(operation, handle, key, CUDNN_TENSOR_NHWC);
  if (!plan) {
    plan = plan_in<Direction>(operation, handle, key, CUDNN_TENSOR_NCHW);
    require(
        plan.has_value(),
        "{}: cuDNN has no deterministic algorithm for {} images of {} x {}, {} channels to {}, of {}, under "
        "a window of {} with stride {}, in {} of workspace",
        operation, key.images, key.height, key.width, key.in, key.out, name_of(key.type), key.size,
        key.stride, format_bytes(most_workspace));
    plan->copies.emplace(key);
  }
  return std::move(*plan);
}

// A thread's handle and plans. As in blas.cpp there may be many plans, because experts get a varying number
// of images.
class Library {
 public:
  static Library& of_thread() {
    thread_local Library library;
    return library;
  }

  cudnnHandle_t handle() const { return handle_.get(); }
  template <class Direction>
  const Plan<Direction>& plan(const char* operation, const Key& key) {
    auto& plans = std::get<Plans<Direction>>(plans_);
    if (const auto known = plans.find(key); known != plans.end() && known->second.workspace <= most_workspace)
      return known->second;
    if (plans.size() == kPlans) plans.clear();
    return plans.insert_or_assign(key, plan_for<Direction>(operation, handle(), key)).first->second;
  }

 private:
  static constexpr std::size_t kPlans = 1024;
  template <class Direction>
  using Plans = std::map<Key, Plan<Direction>>;

  Owned<cudnnHandle_t> handle_ = create(cudnnCreate);
  std::tuple<Plans<Forward>, Plans<BackwardInput>, Plans<BackwardWeight>> plans_;
};

// Sets `plan` and returns memory for its workspace. The library's choice ignores how much memory is free: if
// the device has too little, this and all later convolutions do with half of what was asked for.
template <class Direction>
void* workspace_for(const char* operation, const Key& key, Scratch& scratch, const Plan<Direction>*& plan) {
  for (;;) {
    plan = &Library::of_thread().plan<Direction>(operation, key);
    try {
      return scratch.array<std::byte>(static_cast<Index>(plan->workspace));
    } catch (const OutOfMemory&) {
      if (plan->workspace == 0) throw;
      most_workspace = std::min(most_workspace.load(), plan->workspace / 2);
    }
  }
}

template <class Direction, class T>
void run(const char* operation, const Convolution<T>& c) {
  std::array<void*, 3> operands{c.x, c.weight, c.y};
  const Key key{.images = c.images,
                .height = c.height,
                .width = c.width,
                .in = c.in,
                .out_height = c.out_height,
                .out_width = c.out_width,
                .out = c.out,
                .size = c.size,
                .stride = c.stride,
                .padding = c.padding,
                .type = dtype_of<T>,
                .tf32 = c.rounded && dtype_of<T> == DType::f32 && precision() == Precision::tf32,
                .aligned = std::all_of(operands.begin(), operands.end(), [](const void* operand) {
                  return reinterpret_cast<std::uintptr_t>(operand) % kAlignment == 0;
                })};
  Library& library = Library::of_thread();
  const cudnnHandle_t handle = library.handle();
  check(cudnnSetStream(handle, current_stream()), operation);
  Scratch scratch;
  const Plan<Direction>* plan = nullptr;
  void* const workspace = workspace_for<Direction>(operation, key, scratch, plan);
  const auto& [of, algorithm, workspace_bytes, copies] = *plan;
  const T one = 1, zero = 0, keep = c.accumulate ? T(1) : T(0);
  void* const result = operands[Direction::kResult];
  for (std::size_t i = 0; copies && i < operands.size(); ++i) {
    T* const copy = scratch.array<T>(copies->extents[i].numel());
    if (i != Direction::kResult)
      check(cudnnTransformTensor(handle, &one, copies->ours[i].get(), operands[i], &zero,
                                 copies->theirs[i].get(), copy),
            operation);
    operands[i] = copy;
  }
  check(Direction::run(handle, of, algorithm, operands, &one, copies ? &zero : &keep, workspace,
                       workspace_bytes),
        operation);
  if (copies)
    check(cudnnTransformTensor(handle, &one, copies->theirs[Direction::kResult].get(),
                               operands[Direction::kResult], &keep, copies->ours[Direction::kResult].get(),
                               result),
          operation);
}

}  // namespace

void convolve(const char* operation, const Convolution<float>& convolution) {
  run<Forward>(operation, convolution);
}
void convolve(const char* operation, const Convolution<double>& convolution) {
  run<Forward>(operation, convolution);
}
void convolve_backward_input(const char* operation, const Convolution<float>& convolution) {
  run<BackwardInput>(operation, convolution);
}
void convolve_backward_input(const char* operation, const Convolution<double>& convolution) {
  run<BackwardInput>(operation, convolution);
}
void convolve_backward_weight(const char* operation, const Convolution<float>& convolution) {
  run<BackwardWeight>(operation, convolution);
}
void convolve_backward_weight(const char* operation, const Convolution<double>& convolution) {
  run<BackwardWeight>(operation, convolution);
}

}  // namespace conclave::cuda

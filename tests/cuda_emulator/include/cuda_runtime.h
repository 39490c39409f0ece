// The parts of CUDA's header of this name that the project uses, for a compiler without CUDA: .cu files
// become C++, and kernels run on the processor. emulator.h describes what this device checks.
#pragma once

#include <math.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>

#define CUDART_VERSION 13000

// Both macros add a tag to names in the object file, by which symbols.cpp finds kernels and shared variables.
// Shared variables may be static, as blocks run one after the other.
#define __global__ __attribute__((abi_tag("emulated_global")))
#define __shared__ static __attribute__((abi_tag("emulated_shared")))
#define __host__
#define __device__
#define __constant__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// ---- Types

#define CONCLAVE_VECTORS(type, name, two, four)                                  \
  struct name##2 {                                                               \
    type x, y;                                                                   \
  }                                                                              \
  __attribute__((aligned(two)));                                                 \
  struct name##3 {                                                               \
    type x, y, z;                                                                \
  };                                                                             \
  struct name##4 {                                                               \
    type x, y, z, w;                                                             \
  }                                                                              \
  __attribute__((aligned(four)));                                                \
  constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }            \
  constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
  constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
CONCLAVE_VECTORS(signed char, char, 2, 4)
CONCLAVE_VECTORS(unsigned char, uchar, 2, 4)
CONCLAVE_VECTORS(short, short, 4, 8)
CONCLAVE_VECTORS(unsigned short, ushort, 4, 8)
CONCLAVE_VECTORS(int, int, 8, 16)
CONCLAVE_VECTORS(unsigned, uint, 8, 16)
CONCLAVE_VECTORS(long long, longlong, 16, 16)
CONCLAVE_VECTORS(unsigned long long, ulonglong, 16, 16)
CONCLAVE_VECTORS(float, float, 8, 16)
CONCLAVE_VECTORS(double, double, 16, 16)
#undef CONCLAVE_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorStubLibrary = 34,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0, cudaHostAllocPortable = 1 };
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
struct cudaDeviceProp {
  char name[256];
  std::size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
  int warpSize, maxThreadsPerBlock, major, minor, multiProcessorCount;
};

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;

// ---- Host functions

const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMalloc(void** memory, std::size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMallocHost(void** memory, std::size_t bytes);
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMemset(void* memory, int value, std::size_t bytes);
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaDeviceSynchronize();

template <class T>
cudaError_t cudaMalloc(T** memory, std::size_t bytes) {
  void* untyped = nullptr;
  const cudaError_t error = cudaMalloc(&untyped, bytes);
  *memory = static_cast<T*>(untyped);
  return error;
}
template <class T>
cudaError_t cudaMallocHost(T** memory, std::size_t bytes) {
  void* untyped = nullptr;
  const cudaError_t error = cudaMallocHost(&untyped, bytes);
  *memory = static_cast<T*>(untyped);
  return error;
}

struct cudaLaunchAttribute {};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

namespace conclave::emulator {

/// A kernel with the arguments of one launch.
class KernelCall {
 public:
  virtual ~KernelCall() = default;
  virtual void run() const = 0;          ///< runs one thread
  virtual std::size_t size() const = 0;  ///< size of this object, which holds the arguments
};

template <class... Parameters>
class TypedCall final : public KernelCall {
 public:
  template <class... Arguments>
  explicit TypedCall(void (*kernel)(Parameters...), Arguments&&... arguments)
      : kernel_(kernel), arguments_(std::forward<Arguments>(arguments)...) {}
  void run() const override { std::apply(kernel_, arguments_); }
  std::size_t size() const override { return sizeof *this; }

 private:
  void (*kernel_)(Parameters...);
  std::tuple<std::decay_t<Parameters>...> arguments_;
};

cudaError_t queue_kernel(const cudaLaunchConfig_t& config, const void* kernel,
                         std::unique_ptr<const KernelCall> call);
cudaError_t allow_shared(const void* kernel, int bytes);

enum class Collective { sync, ballot, shuffle };
/// Waits for the lanes of `mask`. A shuffle returns the value of lane `source`, a ballot one bit for each
/// lane with a value other than 0.
std::uint64_t meet_warp(Collective what, unsigned mask, std::uint64_t value, unsigned source,
                        std::source_location where);
/// Waits for all threads of the block; returns how many gave true.
int meet_block(bool value, std::source_location where);
void* shared_memory();
unsigned lane();
unsigned unfinished_lanes();
unsigned threads_of_block();
void fence();
void see_atomic(const void* memory, std::size_t size);
[[noreturn]] void trap();

template <class T>
T shuffle(unsigned mask, T value, unsigned source, std::source_location where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = meet_warp(Collective::shuffle, mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace conclave::emulator

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return conclave::emulator::queue_kernel(*config, reinterpret_cast<const void*>(kernel),
                                          std::make_unique<conclave::emulator::TypedCall<Parameters...>>(
                                              kernel, std::forward<Arguments>(arguments)...));
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
  return conclave::emulator::allow_shared(reinterpret_cast<const void*>(kernel), value);
}

// ---- Device functions: the place of a thread, and waits for other threads

extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;
constexpr int warpSize = 32;

using ConclaveWhere = std::source_location;

inline void __syncthreads(ConclaveWhere where = ConclaveWhere::current()) {
  conclave::emulator::meet_block(false, where);
}
inline int __syncthreads_count(int value, ConclaveWhere where = ConclaveWhere::current()) {
  return conclave::emulator::meet_block(value != 0, where);
}
inline int __syncthreads_or(int value, ConclaveWhere where = ConclaveWhere::current()) {
  return conclave::emulator::meet_block(value != 0, where) > 0;
}
inline int __syncthreads_and(int value, ConclaveWhere where = ConclaveWhere::current()) {
  return conclave::emulator::meet_block(value == 0, where) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, ConclaveWhere where = ConclaveWhere::current()) {
  conclave::emulator::meet_warp(conclave::emulator::Collective::sync, mask, 0, 0, where);
}
inline unsigned __ballot_sync(unsigned mask, int value, ConclaveWhere where = ConclaveWhere::current()) {
  return static_cast<unsigned>(
      conclave::emulator::meet_warp(conclave::emulator::Collective::ballot, mask, value != 0, 0, where));
}
inline int __any_sync(unsigned mask, int value, ConclaveWhere where = ConclaveWhere::current()) {
  return __ballot_sync(mask, value, where) != 0;
}
inline int __all_sync(unsigned mask, int value, ConclaveWhere where = ConclaveWhere::current()) {
  return __ballot_sync(mask, value == 0, where) == 0;
}
inline unsigned __activemask() { return conclave::emulator::unfinished_lanes(); }

// Lanes beyond a segment of `width` keep their own value, as in CUDA.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              ConclaveWhere where = ConclaveWhere::current()) {
  const unsigned lane = conclave::emulator::lane(), size = static_cast<unsigned>(width);
  return conclave::emulator::shuffle(mask, value, lane / size * size + static_cast<unsigned>(source) % size,
                                     where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  ConclaveWhere where = ConclaveWhere::current()) {
  const unsigned lane = conclave::emulator::lane(), source = lane ^ static_cast<unsigned>(bits);
  const bool inside = source / static_cast<unsigned>(width) <= lane / static_cast<unsigned>(width);
  return conclave::emulator::shuffle(mask, value, inside ? source : lane, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32,
                 ConclaveWhere where = ConclaveWhere::current()) {
  const unsigned lane = conclave::emulator::lane();
  return conclave::emulator::shuffle(
      mask, value, lane % static_cast<unsigned>(width) < distance ? lane : lane - distance, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32,
                   ConclaveWhere where = ConclaveWhere::current()) {
  const unsigned lane = conclave::emulator::lane(), size = static_cast<unsigned>(width);
  return conclave::emulator::shuffle(mask, value, lane % size + distance < size ? lane + distance : lane,
                                     where);
}

inline void __threadfence_block() {}
inline void __threadfence() { conclave::emulator::fence(); }
inline void __threadfence_system() { conclave::emulator::fence(); }
[[noreturn]] inline void __trap() { conclave::emulator::trap(); }

// ---- Atomics: one thread runs at a time, and no switch happens within these functions

#define CONCLAVE_ATOMIC(name, ...)                                                                \
  template <class T>                                                                              \
  __attribute__((noinline, no_sanitize("thread"))) T name(T* at, std::type_identity_t<T> value) { \
    conclave::emulator::see_atomic(at, sizeof *at);                                               \
    const T before = *at;                                                                         \
    *at = __VA_ARGS__;                                                                            \
    return before;                                                                                \
  }
CONCLAVE_ATOMIC(atomicAdd, static_cast<T>(before + value))
CONCLAVE_ATOMIC(atomicSub, static_cast<T>(before - value))
CONCLAVE_ATOMIC(atomicMax, value > before ? value : before)
CONCLAVE_ATOMIC(atomicMin, value < before ? value : before)
CONCLAVE_ATOMIC(atomicExch, value)
CONCLAVE_ATOMIC(atomicAnd, static_cast<T>(before& value))
CONCLAVE_ATOMIC(atomicOr, static_cast<T>(before | value))
CONCLAVE_ATOMIC(atomicXor, static_cast<T>(before ^ value))
CONCLAVE_ATOMIC(atomicInc, before >= value ? T{0} : static_cast<T>(before + 1))
#undef CONCLAVE_ATOMIC
template <class T>
__attribute__((noinline, no_sanitize("thread"))) T atomicCAS(T* at, std::type_identity_t<T> expected,
                                                             std::type_identity_t<T> value) {
  conclave::emulator::see_atomic(at, sizeof *at);
  const T before = *at;
  if (before == expected) *at = value;
  return before;
}

// ---- Arithmetic

template <class T>
T __ldg(const T* from) {
  return *from;
}

#define CONCLAVE_LEAST_AND_MOST(type)                          \
  constexpr type min(type a, type b) { return b < a ? b : a; } \
  constexpr type max(type a, type b) { return a < b ? b : a; }
CONCLAVE_LEAST_AND_MOST(int)
CONCLAVE_LEAST_AND_MOST(unsigned)
CONCLAVE_LEAST_AND_MOST(long)
CONCLAVE_LEAST_AND_MOST(unsigned long)
CONCLAVE_LEAST_AND_MOST(long long)
CONCLAVE_LEAST_AND_MOST(unsigned long long)
#undef CONCLAVE_LEAST_AND_MOST
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __clzll(long long bits) {
  return bits == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(bits));
}
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}

// Here the fast versions are as exact as the others.
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1 / sqrtf(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
// A product and a sum that the compiler must not fuse.
inline float __fmul_rn(float x, float y) {
  float product = x * y;
  asm("" : "+x"(product));
  return product;
}
inline float __fadd_rn(float x, float y) {
  float sum = x + y;
  asm("" : "+x"(sum));
  return sum;
}
inline float __saturatef(float x) { return fminf(fmaxf(x, 0), 1); }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }

#include "core/cuda/blas.h"

#include <cublasLt.h>

#include <bit>
#include <memory>
#include <optional>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "core/cuda/launch.h"
#include "core/cuda/scratch.h"

namespace conclave::cuda {
namespace {

using conclave::cuda::check;

constexpr Index kWorkspace = Index{32} << 20;  // NVIDIA's recommendation for sm_90; other devices need less

void check(cublasStatus_t status, const char* operation) {
  require(status == CUBLAS_STATUS_SUCCESS, "{}: cuBLASLt says: {}", operation,
          cublasLtGetStatusString(status));
}

struct Destroy {
  void operator()(cublasLtHandle_t handle) const { cublasLtDestroy(handle); }
  void operator()(cublasLtMatmulDesc_t operation) const { cublasLtMatmulDescDestroy(operation); }
  void operator()(cublasLtMatrixLayout_t layout) const { cublasLtMatrixLayoutDestroy(layout); }
  void operator()(cublasLtMatmulPreference_t preference) const {
    cublasLtMatmulPreferenceDestroy(preference);
  }
};
template <class Handle>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy>;

template <class Handle, class... Parameters>
Owned<Handle> create(cublasStatus_t (*function)(Handle*, Parameters...),
                     std::type_identity_t<Parameters>... arguments) {
  Handle handle = nullptr;
  check(function(&handle, arguments...), "creating an object of cuBLASLt's");
  return Owned<Handle>(handle);
}

template <class T>
void set(const Owned<cublasLtMatmulDesc_t>& operation, cublasLtMatmulDescAttributes_t attribute,
         const T& value) {
  check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value),
        "describing a product");
}

template <class T>
void set(const Owned<cublasLtMatmulPreference_t>& preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value),
        "describing what algorithm is wanted");
}

// The alignment of a pointer, counted up to 256 bytes: cudaMalloc gives that much, and no algorithm asks for
// more.
std::uint32_t alignment(const void* pointer) {
  return 1u << std::countr_zero(reinterpret_cast<std::uintptr_t>(pointer) | 256);
}

// Everything that the choice of an algorithm depends on.
struct Key {
  Index m, n, k, a_stride, b_stride, c_stride;
  std::uint32_t a_alignment, b_alignment, c_alignment;
  bool a_transposed, b_transposed;
  DType type, sum_type;
  cublasComputeType_t compute;
  cublasLtEpilogue_t epilogue;

  bool operator==(const Key&) const = default;
};

struct Hash {
  std::size_t operator()(const Key& key) const {
    std::size_t hash = 0;
    for (const Index value :
         {key.m, key.n, key.k, key.a_stride, key.b_stride, key.c_stride, Index{key.a_alignment},
          Index{key.b_alignment}, Index{key.c_alignment}, Index{key.a_transposed}, Index{key.b_transposed},
          static_cast<Index>(key.type), Index{key.compute}, Index{key.epilogue}})
      hash = std::rotl((hash ^ static_cast<std::size_t>(value)) * 0x9E3779B97F4A7C15u, 29);
    return hash;
  }
};

cudaDataType library_type(DType type) {
  switch (type) {
    case DType::f64:
      return CUDA_R_64F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::i8:
      return CUDA_R_8I;
    case DType::i32:
      return CUDA_R_32I;
    default:
      return CUDA_R_32F;
  }
}

// cuBLASLt's matrices are in column-major order; read in that order, ours are their own transposes. So the
// library computes c^T = b^T a^T, with b^T as its left operand, and nothing has to be transposed for it.
struct Description {
  Owned<cublasLtMatmulDesc_t> operation;
  Owned<cublasLtMatrixLayout_t> left, right, result;

  Description(const Key& key, const void* vector)
      : operation(create(cublasLtMatmulDescCreate, key.compute, library_type(key.sum_type))),
        left(layout(key.type, key.k, key.n, key.b_transposed, key.b_stride)),
        right(layout(key.type, key.m, key.k, key.a_transposed, key.a_stride)),
        result(layout(key.sum_type, key.m, key.n, false, key.c_stride)) {
    set(operation, CUBLASLT_MATMUL_DESC_TRANSA, key.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(operation, CUBLASLT_MATMUL_DESC_TRANSB, key.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, key.epilogue);
    if (vector) set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);  // its alignment matters here
  }

 private:
  static Owned<cublasLtMatrixLayout_t> layout(DType type, Index rows, Index columns, bool transposed,
                                              Index stride) {
    if (transposed) std::swap(rows, columns);
    return create(cublasLtMatrixLayoutCreate, library_type(type), static_cast<std::uint64_t>(columns),
                  static_cast<std::uint64_t>(rows), stride);
  }
};

struct Answer {
  std::optional<cublasLtMatmulAlgo_t> algorithm;
  cublasStatus_t status;
};

Answer ask_for_algorithm(cublasLtHandle_t handle, const Description& of, const Key& key) {
  const auto preference = create(cublasLtMatmulPreferenceCreate);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(kWorkspace));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c_alignment);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, of.operation.get(), of.left.get(), of.right.get(),
                                     of.result.get(), of.result.get(), preference.get(), 1, &best, &found);
  if (status != CUBLAS_STATUS_SUCCESS || found != 1 || best.state != CUBLAS_STATUS_SUCCESS)
    return {std::nullopt, status};
  return {best.algo, status};
}

bool fits(cublasLtHandle_t handle, const Description& of, const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t result{};
  return cublasLtMatmulAlgoCheck(handle, of.operation.get(), of.left.get(), of.right.get(), of.result.get(),
                                 of.result.get(), &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= static_cast<std::size_t>(kWorkspace);
}

// Rounds up to one of eight values per octave, from 16 on.
Index rounded_up(Index rows) {
  if (rows <= 16) return rows;
  const Index step = Index{1} << (std::bit_width(static_cast<std::uint64_t>(rows - 1)) - 4);
  return (rows + step - 1) / step * step;
}

// The product whose algorithm this one uses: one with about as many rows. Experts get another number of rows
// in every step, and asking the library takes some 60 us. Only a dimension that counts rows in every matrix
// is rounded, so that the strides stay valid.
Key typical(Key key) {
  if (!key.a_transposed) key.m = rounded_up(key.m);
  if (key.a_transposed && !key.b_transposed) key.k = rounded_up(key.k);
  return key;
}

struct Plan {
  Description of;
  std::optional<cublasLtMatmulAlgo_t> algorithm;  // none: the library cannot compute the row sums
};

// A thread's handle and plans. There is one plan per shape: a few hundred in a model with batches of one
// size, but nearly every step adds one for an expert, which gets a varying number of rows. So when there are
// kPlans (some 4 MiB), all are dropped. The algorithm of a product, and so its bits, depend on the product's
// shape alone, not on the products before it.
class Library {
 public:
  static Library& of_thread() {
    thread_local Library library;
    return library;
  }

  cublasLtHandle_t handle() const { return handle_.get(); }
  const Plan& plan(const char* operation, const Key& key, const void* vector) {
    if (const auto known = plans_.find(key); known != plans_.end()) return known->second;
    if (plans_.size() == kPlans) plans_.clear();
    return plans_.emplace(key, plan_for(operation, key, vector)).first->second;
  }

 private:
  static constexpr std::size_t kPlans = 4096;

  Plan plan_for(const char* operation, const Key& key, const void* vector) {
    Description of(key, vector);
    const Key other = typical(key);
    auto known = answers_.find(other);
    if (known == answers_.end()) {
      if (answers_.size() == kPlans) answers_.clear();
      known = answers_.emplace(other, ask_for_algorithm(handle(), Description(other, vector), other)).first;
    }
    Answer answer = known->second;
    if (other != key && !(answer.algorithm && fits(handle(), of, *answer.algorithm)))
      answer = ask_for_algorithm(handle(), of, key);
    require(answer.algorithm || key.epilogue == CUBLASLT_EPILOGUE_BGRADB,
            "{}: cuBLASLt has no algorithm for matrices of {}, [{}, {}] times [{}, {}]: {}", operation,
            name_of(key.type), key.m, key.k, key.k, key.n, cublasLtGetStatusString(answer.status));
    return {std::move(of), answer.algorithm};
  }

  Owned<cublasLtHandle_t> handle_ = create(cublasLtCreate);
  std::unordered_map<Key, Plan, Hash> plans_;
  std::unordered_map<Key, Answer, Hash> answers_;  // by typical() key
};

cublasComputeType_t compute_type(DType type) {
  if (type == DType::f64) return CUBLAS_COMPUTE_64F;
  if (type == DType::i8) return CUBLAS_COMPUTE_32I;
  return type == DType::f32 && precision() == Precision::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                              : CUBLAS_COMPUTE_32F;
}

template <class T, class Sum>
bool multiply_any(const char* operation, const MatrixProduct<T, Sum>& product) {
  const auto& [m, n, k, a, b, c, c_stride, accumulate, bias, row_sums] = product;
  if (m == 0 || n == 0) return false;
  if (k == 0) {  // the library does not accept k = 0
    for (Index row = 0; row < m && !accumulate; ++row)
      check(
          cudaMemsetAsync(c + row * c_stride, 0, static_cast<std::size_t>(n) * sizeof(Sum), current_stream()),
          operation);
    return false;
  }
  const Key key{.m = m,
                .n = n,
                .k = k,
                .a_stride = a.stride,
                .b_stride = b.stride,
                .c_stride = c_stride,
                .a_alignment = alignment(a.data),
                .b_alignment = alignment(b.data),
                .c_alignment = alignment(c),
                .a_transposed = a.transposed,
                .b_transposed = b.transposed,
                .type = dtype_of<T>,
                .sum_type = dtype_of<Sum>,
                .compute = compute_type(dtype_of<T>),
                .epilogue = row_sums ? CUBLASLT_EPILOGUE_BGRADB  // sums over the right operand, which is a
                            : bias   ? CUBLASLT_EPILOGUE_BIAS
                                     : CUBLASLT_EPILOGUE_DEFAULT};
  const void* const vector = row_sums ? row_sums : bias;
  Library& library = Library::of_thread();
  const Plan& plan = library.plan(operation, key, vector);
  if (!plan.algorithm) {
    MatrixProduct<T, Sum> without = product;
    without.row_sums = nullptr;
    return multiply_any(operation, without);
  }
  if (vector) set(plan.of.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);  // this call's address
  const Sum alpha = 1, beta = accumulate ? Sum(1) : Sum(0);
  Scratch scratch;
  const Description& of = plan.of;
  check(cublasLtMatmul(library.handle(), of.operation.get(), &alpha, b.data, of.left.get(), a.data,
                       of.right.get(), &beta, c, of.result.get(), c, of.result.get(), &*plan.algorithm,
                       scratch.array<std::byte>(kWorkspace), kWorkspace, current_stream()),
        operation);
  return row_sums != nullptr;
}

}  // namespace

bool multiply(const char* operation, const MatrixProduct<BFloat16, float>& product) {
  return multiply_any(operation, product);
}
bool multiply(const char* operation, const MatrixProduct<float>& product) {
  return multiply_any(operation, product);
}
bool multiply(const char* operation, const MatrixProduct<double>& product) {
  return multiply_any(operation, product);
}
bool multiply(const char* operation, const MatrixProduct<std::int8_t, std::int32_t>& product) {
  return multiply_any(operation, product);
}

}  // namespace conclave::cuda

// Emulates cuBLASLt. Products run in stream order and are computed in f64. Every argument is checked: a
// violation of the library's rules or documentation is a report, even if the library itself would compute
// something.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <array>

#include "tests/cuda_emulator/library.h"

namespace conclave::emulator {
namespace {

// ---- Objects

struct Matrix {  // in column-major order
  cudaDataType type = CUDA_R_32F;
  std::uint64_t rows = 0, columns = 0;
  std::int64_t leading_dimension = 0;

  bool operator==(const Matrix&) const = default;
  std::size_t element() const {
    switch (type) {
      case CUDA_R_64F:
        return sizeof(double);
      case CUDA_R_16BF:
        return sizeof(__nv_bfloat16);
      case CUDA_R_8I:
        return sizeof(std::int8_t);
      case CUDA_R_32F:
      case CUDA_R_32I:
        break;
    }
    return sizeof(float);
  }
};

struct Operation {
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cudaDataType scale = CUDA_R_32F;
  cublasOperation_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;  // or the destination of the sums

  bool has_bias() const { return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }
  bool sums() const { return epilogue == CUBLASLT_EPILOGUE_BGRADB; }  // sums of the columns of op(B)
};

constexpr std::array kNames{"A", "B", "C", "D"};
constexpr std::uint64_t kMostAligned = 256, kBiasAlignment = 16;
/// Alignment in bytes of bf16 and integer matrices and of their columns, for the fast kernels of tensor
/// cores.
constexpr std::uint64_t kHalfAlignment = 16;
/// Extents m and k of integer products must be multiples of this number (by the documentation), and so must
/// the leading dimension of their result.
constexpr std::uint64_t kIntegerMultiple = 4;

struct Preference {
  std::uint64_t most_workspace = 0;
  std::array<std::uint32_t, 4> alignments{kMostAligned, kMostAligned, kMostAligned, kMostAligned};
};

struct Problem {
  Operation operation;
  std::array<Matrix, 4> matrices;  // A, B, C, D
};

/// Whether two problems are equal; without `exactly`, the extents of their matrices may differ.
bool alike(const Problem& a, const Problem& b, bool exactly) {
  for (std::size_t i = 0; i < 4; ++i)
    if (exactly ? a.matrices[i] != b.matrices[i]
                : a.matrices[i].type != b.matrices[i].type ||
                      a.matrices[i].leading_dimension != b.matrices[i].leading_dimension)
      return false;
  return a.operation.compute == b.operation.compute && a.operation.transpose_a == b.operation.transpose_a &&
         a.operation.transpose_b == b.operation.transpose_b && a.operation.epilogue == b.operation.epilogue;
}

// An answer of the heuristic.
struct Algorithm {
  std::vector<Problem> problems;  // that of the request, and those of later checks
  std::array<std::uint32_t, 4> alignments{};
  std::uint64_t bias_alignment = 0, workspace = 0;
};

// Never destroyed, because threads destroy their handles late.
auto& handles = *new Objects<cublasLtHandle_t, Nothing>("a cuBLASLt handle");
auto& operations = *new Objects<cublasLtMatmulDesc_t, Operation>("a description of a product");
auto& layouts = *new Objects<cublasLtMatrixLayout_t, Matrix>("a matrix's layout");
auto& preferences = *new Objects<cublasLtMatmulPreference_t, Preference>("a preference");
auto& algorithms = *new std::vector<Algorithm>;  // cublasLtMatmulAlgo_t has the number, from 1

Algorithm& algorithm_at(const cublasLtMatmulAlgo_t* algorithm, const std::string& doing) {
  const std::uint64_t number = algorithm ? algorithm->data[0] : 0;
  if (number == 0 || number > algorithms.size()) throw Report(doing + ": no heuristic gave this algorithm");
  return algorithms[number - 1];
}

template <class Body>
cublasStatus_t call(Body&& body) {
  return call_of_library(body, CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_INVALID_VALUE,
                         CUBLAS_STATUS_EXECUTION_FAILED);
}

template <class T>
void read(T& to, const void* value, std::size_t bytes, const char* attribute) {
  if (!value || bytes != sizeof(T))
    throw Report(std::string(attribute) + " wants " + std::to_string(sizeof(T)) + " bytes and gets " +
                 (value ? std::to_string(bytes) : "null"));
  std::memcpy(&to, value, sizeof(T));
}

// ---- Checks of a product

std::string text_of(std::uint64_t rows, std::uint64_t columns) {
  return "[" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
}

Problem problem_of(const std::string& doing, cublasLtMatmulDesc_t operation,
                   const std::array<cublasLtMatrixLayout_t, 4>& given) {
  Problem problem{.operation = operations.at(operation, doing), .matrices = {}};
  const Operation& how = problem.operation;
  const bool integers = how.compute == CUBLAS_COMPUTE_32I;
  const cudaDataType type = how.compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F
                            : integers                        ? CUDA_R_32I
                                                              : CUDA_R_32F;
  if (how.scale != type) throw Report(doing + ": alpha and beta are not of the type computed in");
  if (type != CUDA_R_32F && how.epilogue != CUBLASLT_EPILOGUE_DEFAULT)
    throw Report(doing + ": an epilogue in " + (integers ? "integers" : "f64") +
                 ", on which the project does not rely");
  if (integers && (how.transpose_a != CUBLAS_OP_T || how.transpose_b != CUBLAS_OP_N))
    throw Report(doing + ": of integers A is to be transposed, and B is not");
  if ((how.has_bias() || how.sums()) && !how.bias)
    throw Report(doing + ": the epilogue " + (how.sums() ? "writes sums" : "adds a bias") +
                 ", and there is no bias pointer");
  for (std::size_t i = 0; i < 4; ++i) {
    const std::string name = doing + ": " + kNames[i];
    const Matrix& matrix = problem.matrices[i] = layouts.at(given[i], name);
    // Accepts those of the documented combinations of types that the project relies on.
    const bool halves = i < 2 && problem.matrices[0].type == CUDA_R_16BF, bytes = i < 2 && integers;
    if (halves && how.compute != CUBLAS_COMPUTE_32F)
      throw Report(name + " is of bf16, which CUBLAS_COMPUTE_32F multiplies");
    if (matrix.type != (halves ? CUDA_R_16BF : bytes ? CUDA_R_8I : type))
      throw Report(name + (halves  ? " is not of bf16, as A is"
                           : bytes ? " is not of 8-bit integers"
                                   : " is not of the type computed in"));
    if ((halves || bytes) &&
        static_cast<std::size_t>(matrix.leading_dimension) * matrix.element() % kHalfAlignment != 0)
      throw Report(name + (halves ? " of bf16" : " of integers") + " has leading dimension " +
                   std::to_string(matrix.leading_dimension) + ", and columns are to begin where 16 bytes do");
    if (matrix.rows == 0 || matrix.columns == 0)
      throw Report(name + " is " + text_of(matrix.rows, matrix.columns) + ", of no elements");
    if (matrix.leading_dimension < static_cast<std::int64_t>(matrix.rows))
      throw Report(name + " has leading dimension " + std::to_string(matrix.leading_dimension) +
                   ", less than its " + std::to_string(matrix.rows) + " rows");
  }
  const auto& [a, b, c, d] = problem.matrices;
  const bool ta = how.transpose_a == CUBLAS_OP_T, tb = how.transpose_b == CUBLAS_OP_T;
  const std::uint64_t m = ta ? a.columns : a.rows, k = ta ? a.rows : a.columns, kb = tb ? b.columns : b.rows,
                      n = tb ? b.rows : b.columns;
  if (k != kb || d.rows != m || d.columns != n)
    throw Report(doing + ": " + text_of(m, k) + " times " + text_of(kb, n) + " is no " +
                 text_of(d.rows, d.columns));
  if (integers && (m % kIntegerMultiple != 0 || k % kIntegerMultiple != 0 ||
                   static_cast<std::uint64_t>(d.leading_dimension) % kIntegerMultiple != 0))
    throw Report(doing + ": " + text_of(m, k) + " times " + text_of(kb, n) +
                 " of integers has extents that are no multiples of 4");
  if (c.rows != d.rows || c.columns != d.columns)
    throw Report(doing + ": C is " + text_of(c.rows, c.columns) + " and D is " + text_of(d.rows, d.columns));
  return problem;
}

Area area_of(std::string name, const void* memory, const Matrix& matrix) {
  return {std::move(name), address(memory), matrix.rows * matrix.element(),
          static_cast<std::size_t>(matrix.leading_dimension) * matrix.element(), matrix.columns};
}

// ---- Computation of a product

template <class T>
void compute(const Problem& problem, double alpha, const void* a, const void* b, double beta, const void* c,
             void* d) {
  const auto& [a_matrix, b_matrix, c_matrix, d_matrix] = problem.matrices;
  const Operation& how = problem.operation;
  const auto operand = [&](const void* memory, const Matrix& matrix, bool transposed, std::uint64_t row,
                           std::uint64_t column) -> double {
    if (transposed) std::swap(row, column);
    const std::uint64_t at = row + column * static_cast<std::uint64_t>(matrix.leading_dimension);
    if (matrix.type == CUDA_R_8I) return static_cast<const std::int8_t*>(memory)[at];
    if (matrix.type == CUDA_R_16BF) return static_cast<float>(static_cast<const __nv_bfloat16*>(memory)[at]);
    const T value = static_cast<const T*>(memory)[at];
    return how.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? as_tf32(static_cast<float>(value)) : value;
  };
  const bool ta = how.transpose_a == CUBLAS_OP_T, tb = how.transpose_b == CUBLAS_OP_T;
  const std::uint64_t depth = ta ? a_matrix.rows : a_matrix.columns;
  for (std::uint64_t column = 0; column < d_matrix.columns; ++column)
    for (std::uint64_t row = 0; row < d_matrix.rows; ++row) {
      double sum = 0;
      for (std::uint64_t i = 0; i < depth; ++i)
        sum += operand(a, a_matrix, ta, row, i) * operand(b, b_matrix, tb, i, column);
      sum *= alpha;
      if (beta != 0) {
        const auto at = row + column * static_cast<std::uint64_t>(c_matrix.leading_dimension);
        sum += beta * static_cast<double>(static_cast<const T*>(c)[at]);
      }
      if (how.has_bias()) sum += static_cast<double>(static_cast<const T*>(how.bias)[row]);
      if ((how.epilogue & CUBLASLT_EPILOGUE_RELU) != 0 && !(sum > 0)) sum = 0;  // also for NaN
      static_cast<T*>(d)[row + column * static_cast<std::uint64_t>(d_matrix.leading_dimension)] =
          static_cast<T>(sum);
    }
  for (std::uint64_t column = 0; how.sums() && column < d_matrix.columns; ++column) {
    double sum = 0;
    for (std::uint64_t i = 0; i < depth; ++i) sum += operand(b, b_matrix, tb, i, column);
    static_cast<T*>(how.bias)[column] = static_cast<T>(sum);
  }
}

}  // namespace
}  // namespace conclave::emulator

// ---- cuBLASLt's functions

using namespace conclave::emulator;

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_INVALID_VALUE:
    case CUBLAS_STATUS_EXECUTION_FAILED:
      break;
  }
  return report_so_far().empty() ? "CUBLAS_STATUS_EXECUTION_FAILED" : report_so_far().c_str();
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  return call([&] { *handle = handles.create({}); });
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return call([&] { handles.destroy(handle, "cublasLtDestroy"); });
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  return call([&] { *operation = operations.create({.compute = compute, .scale = scale}); });
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  return call([&] { operations.destroy(operation, "cublasLtMatmulDescDestroy"); });
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              std::size_t bytes) {
  return call([&] {
    Operation& how = operations.at(operation, "cublasLtMatmulDescSetAttribute");
    switch (attribute) {
      case CUBLASLT_MATMUL_DESC_TRANSA:
        return read(how.transpose_a, value, bytes, "CUBLASLT_MATMUL_DESC_TRANSA");
      case CUBLASLT_MATMUL_DESC_TRANSB:
        return read(how.transpose_b, value, bytes, "CUBLASLT_MATMUL_DESC_TRANSB");
      case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return read(how.epilogue, value, bytes, "CUBLASLT_MATMUL_DESC_EPILOGUE");
      case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return read(how.bias, value, bytes, "CUBLASLT_MATMUL_DESC_BIAS_POINTER");
    }
  });
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          std::uint64_t rows, std::uint64_t columns,
                                          std::int64_t leading_dimension) {
  return call([&] { *layout = layouts.create({type, rows, columns, leading_dimension}); });
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return call([&] { layouts.destroy(layout, "cublasLtMatrixLayoutDestroy"); });
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return call([&] { *preference = preferences.create({}); });
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return call([&] { preferences.destroy(preference, "cublasLtMatmulPreferenceDestroy"); });
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
  return call([&] {
    Preference& wanted = preferences.at(preference, "cublasLtMatmulPreferenceSetAttribute");
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
      return read(wanted.most_workspace, value, bytes, "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES");
    std::uint32_t& alignment =
        wanted.alignments[static_cast<std::size_t>(attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)];
    read(alignment, value, bytes, "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT");
    if (!std::has_single_bit(alignment))
      throw Report("CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT is " + std::to_string(alignment) +
                   ", no power of two");
  });
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  constexpr const char* kDoing = "cublasLtMatmulAlgoGetHeuristic";
  bool has_one = true;
  const cublasStatus_t status = call([&] {
    handles.at(handle, kDoing);
    const Preference& preferred = preferences.at(preference, kDoing);
    Algorithm algorithm{.problems = {problem_of(kDoing, operation, {a, b, c, d})},
                        .alignments = preferred.alignments};
    const Problem& problem = algorithm.problems.front();
    if (wanted < 1 || !results || !found) throw Report(std::string(kDoing) + ": no room for an answer");
    for (std::size_t i = 0; i < 4; ++i)
      if (preferred.alignments[i] < problem.matrices[i].element())
        throw Report(std::string(kDoing) + ": " + kNames[i] + " need not even be aligned to its elements");
      else if (const cudaDataType type = problem.matrices[i].type;
               (type == CUDA_R_16BF || type == CUDA_R_8I) && preferred.alignments[i] < kHalfAlignment)
        throw Report(std::string(kDoing) + ": " + kNames[i] +
                     (type == CUDA_R_8I ? " of integers" : " of bf16") + " is to begin where 16 bytes do");
    // The library supports this epilogue for some layouts only and does not document which. Here, the leading
    // dimension of B must be a multiple of 4.
    const Matrix& right = problem.matrices[1];
    if (problem.operation.sums()) {
      if (right.type != CUDA_R_32F)
        throw Report(std::string(kDoing) + ": sums of what is not f32, on which the project does not rely");
      has_one = right.leading_dimension % 4 == 0;
    }
    algorithm.bias_alignment = alignment_of(problem.operation.bias, kBiasAlignment);
    // Like a split-k algorithm, it needs a workspace for partial sums, if there is room for them.
    const Matrix& result = problem.matrices[3];
    const std::uint64_t needed = (result.rows * result.columns * sizeof(double) + 255) / 256 * 256;
    if (needed <= preferred.most_workspace) algorithm.workspace = needed;
    algorithms.push_back(algorithm);
    ++counts.algorithms;
    results[0] = {.algo = {.data = {algorithms.size()}},
                  .workspaceSize = algorithm.workspace,
                  .state = CUBLAS_STATUS_SUCCESS,
                  .wavesCount = 1};
    *found = 1;
  });
  if (has_one) return status;
  *found = 0;
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

// The library refuses algorithms by undocumented limits. Here, one number of columns in five is refused.
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
  const std::string doing = "cublasLtMatmulAlgoCheck";
  bool fits = true;
  const cublasStatus_t status = call([&] {
    handles.at(handle, doing);
    const Problem problem = problem_of(doing, operation, {a, b, c, d});
    Algorithm& chosen = algorithm_at(algorithm, doing);
    const Problem& asked = chosen.problems.front();
    const auto within = [](const Matrix& matrix, const Matrix& most) {
      return matrix.rows <= most.rows && matrix.columns <= most.columns;
    };
    fits = alike(asked, problem, false) && problem.matrices[3].columns % 5 != 4;
    for (std::size_t i = 0; i < 4; ++i) fits = fits && within(problem.matrices[i], asked.matrices[i]);
    if (fits) chosen.problems.push_back(problem);
    *result = {.algo = *algorithm,
               .workspaceSize = chosen.workspace,
               .state = CUBLAS_STATUS_SUCCESS,
               .wavesCount = 1};
  });
  return fits ? status : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
  const std::string doing = "cublasLtMatmul";
  return call([&] {
    count_call();
    handles.at(handle, doing);
    const Problem problem = problem_of(doing, operation, {a_layout, b_layout, c_layout, d_layout});
    const Operation& how = problem.operation;
    const Algorithm& chosen = algorithm_at(algorithm, doing);
    if (std::none_of(chosen.problems.begin(), chosen.problems.end(),
                     [&](const Problem& known) { return alike(known, problem, true); }))
      throw Report(doing + ": the heuristic gave this algorithm for another product");

    const bool wide = how.scale == CUDA_R_64F, integers = how.scale == CUDA_R_32I;
    const auto factor = [&](const void* value, const char* name) {
      if (!value || in_device_memory(address(value)))
        throw Report(doing + ": " + name + " is not in the host's memory");
      return wide       ? *static_cast<const double*>(value)
             : integers ? double(*static_cast<const std::int32_t*>(value))
                        : double{*static_cast<const float*>(value)};
    };
    const double scale = factor(alpha, "alpha"), keep = factor(beta, "beta");

    const std::array<const void*, 4> pointers{a, b, c, d};
    const Area result = area_of("D", d, problem.matrices[3]);
    std::vector<Area> reads, writes{result};
    for (std::size_t i = 0; i < 3; ++i)
      if (i < 2 || keep != 0) reads.push_back(area_of(kNames[i], pointers[i], problem.matrices[i]));
    if (how.has_bias()) {
      reads.push_back(
          Area::of("the bias", how.bias, problem.matrices[3].rows * problem.matrices[3].element()));
    }
    if (how.sums())
      writes.push_back(
          Area::of("the sums", how.bias, problem.matrices[3].columns * problem.matrices[3].element()));
    if ((how.has_bias() || how.sums()) && address(how.bias) % chosen.bias_alignment != 0)
      throw Report(doing + ": the bias is less aligned than the one the heuristic was shown");
    for (std::size_t i = 0; i < 4; ++i)
      if (address(pointers[i]) % chosen.alignments[i] != 0)
        throw Report(doing + ": " + kNames[i] + " is aligned to " +
                     std::to_string(alignment_of(pointers[i], kMostAligned)) + " bytes, and " +
                     std::to_string(chosen.alignments[i]) + " were preferred");
    if (chosen.workspace > workspace_bytes)
      throw Report(doing + ": the algorithm needs " + std::to_string(chosen.workspace) +
                   " bytes of workspace and gets " + std::to_string(workspace_bytes));
    if (address(workspace) % 256 != 0) throw Report(doing + ": the workspace is not aligned to 256 bytes");
    if (workspace_bytes > 0) Area::of("workspace", workspace, workspace_bytes).expect_on_device(doing);
    if (chosen.workspace > 0) {
      writes.push_back(Area::of("workspace", workspace, chosen.workspace));
      writes.back().is_operand = false;
    }
    for (const Area& area : writes) area.expect_on_device(doing);
    for (const Area& area : reads) {
      area.expect_on_device(doing);
      for (const Area& written : writes)
        if (overlap(area, written) && !(area.name == "C" && area == result))
          throw Report(doing + ": " + area.name + " and " + written.name + " overlap");
    }
    for (std::size_t i = 0; i < writes.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        if (overlap(writes[j], writes[i]))
          throw Report(doing + ": " + writes[j].name + " and " + writes[i].name + " overlap");

    queue(stream, "a product of matrices", [=, needed = chosen.workspace](std::uint32_t) {
      for (const auto* const areas : {&reads, &writes})
        for (const Area& area : *areas) {
          area.expect_on_device(doing);
          area.see(areas == &writes);
        }
      if (needed > 0) std::memset(workspace, kPoison, needed);
      if (wide)
        compute<double>(problem, scale, a, b, keep, c, d);
      else if (integers)
        compute<std::int32_t>(problem, scale, a, b, keep, c, d);
      else
        compute<float>(problem, scale, a, b, keep, c, d);
      ++counts.launches;
    });
  });
}

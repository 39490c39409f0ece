// Results of the emulated cuBLASLt, and planted mistakes in its use, each of which it detects.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <functional>
#include <optional>

#include "core/cuda/blas.h"
#include "tests/core/values.h"
#include "tests/cuda_emulator/trial.h"

namespace conclave {
namespace {

using Catch::Contains;

// D [3, 2] = A [3, 4] B [4, 2] in column-major order. A test changes one thing.
struct ProductCall {
  Tensor memory = cuda::to_device(random_values({64}, 1, DType::f32));
  Tensor room = cuda::empty_on_device({2048}, DType::u8);
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t operation = nullptr;
  std::array<cublasLtMatrixLayout_t, 4> layouts{};
  cublasLtMatmulPreference_t preference = nullptr;
  std::array<std::int64_t, 3> leading{3, 4, 3};  // of A, B, C and D
  float* pointers[4] = {at(0), at(16), at(32), at(32)};
  const void* bias = at(48);
  std::array<std::uint32_t, 4> alignments{16, 16, 16, 16};
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cudaDataType scale = CUDA_R_32F, type_of_a = CUDA_R_32F, type_of_b = CUDA_R_32F, type_of_d = CUDA_R_32F;
  std::uint64_t rows = 3;  // of the result
  bool transposed_a = false;
  std::uint64_t inner_of_b = 4;
  float beta = 0;
  void* workspace = room.raw();
  std::size_t workspace_bytes = 1024;
  cudaStream_t stream = nullptr;
  std::optional<cublasLtEpilogue_t> epilogue;
  // Before the heuristic is asked, and before the product.
  std::function<void(ProductCall&)> before = [](ProductCall&) {}, then = [](ProductCall&) {};

  float* at(Index offset) const { return memory.data<float>() + offset; }
  const char* run() {
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&operation, compute, scale);
    if (transposed_a) {
      constexpr cublasOperation_t kTransposed = CUBLAS_OP_T;
      cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &kTransposed,
                                     sizeof kTransposed);
    }
    cublasLtMatrixLayoutCreate(&layouts[0], type_of_a, transposed_a ? 4 : rows, transposed_a ? rows : 4,
                               leading[0]);
    cublasLtMatrixLayoutCreate(&layouts[1], type_of_b, inner_of_b, 2, leading[1]);
    for (const std::size_t i : {2, 3})
      cublasLtMatrixLayoutCreate(&layouts[i], type_of_d, rows, 2, leading[2]);
    if (epilogue) {
      cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &*epilogue, sizeof *epilogue);
      cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    }
    cublasLtMatmulPreferenceCreate(&preference);
    const std::uint64_t most = 1024;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                         sizeof most);
    for (int i = 0; i < 4; ++i)
      cublasLtMatmulPreferenceSetAttribute(
          preference,
          static_cast<cublasLtMatmulPreferenceAttributes_t>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i),
          &alignments[static_cast<std::size_t>(i)], sizeof(std::uint32_t));
    before(*this);
    cublasLtMatmulHeuristicResult_t chosen{};
    int found = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, operation, layouts[0], layouts[1], layouts[2], layouts[3], preference, 1, &chosen, &found);
    if (status == CUBLAS_STATUS_SUCCESS) {
      then(*this);
      const float one = 1;
      const std::int32_t one_integer = 1;
      const void* const alpha = scale == CUDA_R_32I ? static_cast<const void*>(&one_integer) : &one;
      status = cublasLtMatmul(handle, operation, alpha, pointers[0], layouts[0], pointers[1], layouts[1],
                              &beta, pointers[2], layouts[2], pointers[3], layouts[3], &chosen.algo,
                              workspace, workspace_bytes, stream);
    }
    return cublasLtGetStatusString(status);
  }
};

void fails(const char* says, const std::function<void(ProductCall&)>& change) {
  ProductCall call;
  change(call);
  CHECK_THAT(call.run(), Contains(says));
  CHECK_THAT(emulator::take_report(), Contains(says));
}

TEST_CASE("cuBLASLt: a valid product is computed") {
  ProductCall call;
  call.epilogue = CUBLASLT_EPILOGUE_RELU_BIAS;
  CHECK(call.run() == std::string("CUBLAS_STATUS_SUCCESS"));
  const Tensor host = cuda::to_host(call.memory);
  CHECK(emulator::take_report() == "");
  const float* const values = host.data<float>();
  for (Index row = 0; row < 3; ++row)
    for (Index column = 0; column < 2; ++column) {
      double sum = values[48 + row];
      for (Index i = 0; i < 4; ++i) sum += double{values[row + 3 * i]} * values[16 + i + 4 * column];
      CHECK(values[32 + row + 3 * column] == Approx(std::max(sum, 0.0)));
    }
  const Tensor workspace = cuda::to_host(call.room);
  CHECK(workspace.data<std::uint8_t>()[0] == 0xFF);  // the contents of the workspace are lost
}

TEST_CASE("cuBLASLt: a product can also sum the columns of its right operand") {
  ProductCall call;
  call.epilogue = CUBLASLT_EPILOGUE_BGRADB;
  CHECK(call.run() == std::string("CUBLAS_STATUS_SUCCESS"));
  const Tensor host = cuda::to_host(call.memory);
  CHECK(emulator::take_report() == "");
  const float* const values = host.data<float>();
  for (Index column = 0; column < 2; ++column) {
    double sum = 0, product = 0;
    for (Index i = 0; i < 4; ++i) {
      sum += values[16 + i + 4 * column];
      product += double{values[3 * i]} * values[16 + i + 4 * column];
    }
    CHECK(values[48 + column] == Approx(sum));
    CHECK(values[32 + 3 * column] == Approx(product));
  }
}

TEST_CASE("cuBLASLt: unsupported or overlapping column sums are mistakes") {
  const auto sums_fail = [](const char* says, const std::function<void(ProductCall&)>& change) {
    fails(says, [&](ProductCall& call) {
      call.epilogue = CUBLASLT_EPILOGUE_BGRADB;
      change(call);
    });
  };
  sums_fail("writes sums, and there is no bias pointer", [](ProductCall& call) { call.bias = nullptr; });
  sums_fail("D and the sums overlap", [](ProductCall& call) { call.bias = call.at(36); });
  sums_fail("A and the sums overlap", [](ProductCall& call) { call.bias = call.at(0); });
  sums_fail("the sums: 8 bytes at offset 256 of 256", [](ProductCall& call) { call.bias = call.at(64); });
  sums_fail("sums of what is not f32", [](ProductCall& call) {
    call.type_of_a = call.type_of_b = CUDA_R_16BF;
    call.leading = {8, 8, 3};
  });
  ProductCall call;
  call.epilogue = CUBLASLT_EPILOGUE_BGRADB;
  call.leading[1] = 5;
  CHECK(call.run() == std::string("CUBLAS_STATUS_NOT_SUPPORTED"));
  CHECK(emulator::take_report() == "");
}

TEST_CASE("cuBLASLt: traffic counts the operands but not the workspace") {
  ProductCall call;
  emulator::take_traffic();
  emulator::count_traffic(true);
  call.run();
  wait();
  emulator::count_traffic(false);
  const std::vector<emulator::Traffic> traffic = emulator::take_traffic();
  REQUIRE(traffic.size() == 1);
  CHECK(traffic[0].what == "a product of matrices");
  CHECK(traffic[0].read == 64 + 32);  // A and B, in sectors
  CHECK(traffic[0].written == 32);
}

TEST_CASE("cuBLASLt: matrices that do not match are mistakes") {
  fails("A has leading dimension 2, less than its 3 rows", [](ProductCall& call) { call.leading[0] = 2; });
  fails("D has leading dimension 1, less than its 3 rows", [](ProductCall& call) {
    call.then = [](ProductCall& now) { cublasLtMatrixLayoutCreate(&now.layouts[3], CUDA_R_32F, 3, 2, 1); };
  });
  fails("[3, 4] times [3, 2] is no [3, 2]", [](ProductCall& call) { call.inner_of_b = 3; });
  fails("B is not of the type computed in", [](ProductCall& call) { call.type_of_b = CUDA_R_64F; });
  fails("alpha and beta are not of the type", [](ProductCall& call) { call.scale = CUDA_R_64F; });
  fails("an epilogue in f64", [](ProductCall& call) {
    call.compute = CUBLAS_COMPUTE_64F;
    call.scale = CUDA_R_64F;
    call.epilogue = CUBLASLT_EPILOGUE_RELU;
  });
  fails("is [0, 2], of no elements", [](ProductCall& call) { call.inner_of_b = 0; });
  fails("gave this algorithm for another product", [](ProductCall& call) {
    call.then = [](ProductCall& now) { cublasLtMatrixLayoutCreate(&now.layouts[0], CUDA_R_32F, 3, 4, 4); };
  });
}

// Makes A and B bf16; C, D and the bias stay f32.
void use_halves(ProductCall& call) {
  call.type_of_a = call.type_of_b = CUDA_R_16BF;
  call.leading = {8, 8, 3};
}

TEST_CASE("cuBLASLt: a product of bf16 has sums and bias in f32") {
  ProductCall call;
  use_halves(call);
  call.epilogue = CUBLASLT_EPILOGUE_BIAS;
  const Tensor halves = Tensor::borrow(call.memory.raw(), {64}, DType::bf16, Device::cuda);
  halves.copy_from(random_values({64}, 2, DType::bf16));
  CHECK(call.run() == std::string("CUBLAS_STATUS_SUCCESS"));
  const Tensor host = cuda::to_host(call.memory), multiplied = cuda::to_host(halves).to(DType::f64);
  CHECK(emulator::take_report() == "");
  const double* const values = multiplied.data<double>();
  for (Index row = 0; row < 3; ++row)
    for (Index column = 0; column < 2; ++column) {
      double sum = host.data<float>()[48 + row];
      for (Index i = 0; i < 4; ++i) sum += values[row + 8 * i] * values[32 + i + 8 * column];
      CHECK(host.data<float>()[32 + row + 3 * column] == static_cast<float>(sum));
    }
}

TEST_CASE("cuBLASLt: unsupported and slow products of bf16 are mistakes") {
  const auto halves_fail = [](const char* says, const std::function<void(ProductCall&)>& change) {
    fails(says, [&](ProductCall& call) {
      use_halves(call);
      change(call);
    });
  };
  halves_fail("B is not of bf16, as A is", [](ProductCall& call) { call.type_of_b = CUDA_R_32F; });
  halves_fail("B is not of the type computed in", [](ProductCall& call) { call.type_of_a = CUDA_R_32F; });
  halves_fail("D is not of the type computed in", [](ProductCall& call) {
    call.before = [](ProductCall& now) { cublasLtMatrixLayoutCreate(&now.layouts[3], CUDA_R_16BF, 3, 2, 8); };
  });
  for (const cublasComputeType_t compute : {CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_64F})
    halves_fail("A is of bf16, which CUBLAS_COMPUTE_32F multiplies", [&](ProductCall& call) {
      call.compute = compute;
      call.scale = compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
    });
  halves_fail("A of bf16 has leading dimension 4, and columns are to begin where 16 bytes do",
              [](ProductCall& call) { call.leading[0] = 4; });
  halves_fail("B of bf16 is to begin where 16 bytes do", [](ProductCall& call) { call.alignments[1] = 8; });
  halves_fail("A is aligned to 4 bytes, and 16 were preferred",
              [](ProductCall& call) { call.pointers[0] = call.at(1); });
  halves_fail("A: 54 bytes at offset 208 of 256", [](ProductCall& call) { call.pointers[0] = call.at(52); });
}

// Makes A and B 8-bit integers and C and D 32-bit integers, in the same memory.
void use_integers(ProductCall& call) {
  call.type_of_a = call.type_of_b = CUDA_R_8I;
  call.type_of_d = call.scale = CUDA_R_32I;
  call.compute = CUBLAS_COMPUTE_32I;
  call.transposed_a = true;
  call.rows = 4;
  call.leading = {16, 16, 4};
}

TEST_CASE("cuBLASLt: a product of integers has integer sums") {
  ProductCall call;
  use_integers(call);
  const Tensor bytes = Tensor::borrow(call.memory.raw(), {256}, DType::i8, Device::cuda),
               integers = Tensor::empty({256}, DType::i8);
  for (Index i = 0; i < 256; ++i)
    integers.data<std::int8_t>()[i] = static_cast<std::int8_t>(i * 37 % 255 - 127);
  bytes.copy_from(integers);
  CHECK(call.run() == std::string("CUBLAS_STATUS_SUCCESS"));
  const Tensor sums = cuda::to_host(Tensor::borrow(call.memory.raw(), {64}, DType::i32, Device::cuda));
  CHECK(emulator::take_report() == "");
  const std::int8_t* const values = integers.data<std::int8_t>();
  for (Index row = 0; row < 4; ++row)
    for (Index column = 0; column < 2; ++column) {
      std::int32_t sum = 0;
      for (Index i = 0; i < 4; ++i) sum += values[i + 16 * row] * values[64 + i + 16 * column];
      CHECK(sums.data<std::int32_t>()[32 + row + 4 * column] == sum);
    }
}

TEST_CASE("cuBLASLt: unsupported and slow products of integers are mistakes") {
  const auto integers_fail = [](const char* says, const std::function<void(ProductCall&)>& change) {
    fails(says, [&](ProductCall& call) {
      use_integers(call);
      change(call);
    });
  };
  integers_fail("A is not of 8-bit integers", [](ProductCall& call) { call.type_of_a = CUDA_R_32I; });
  integers_fail("B is not of 8-bit integers", [](ProductCall& call) { call.type_of_b = CUDA_R_16BF; });
  integers_fail("D is not of the type computed in", [](ProductCall& call) {
    call.before = [](ProductCall& now) { cublasLtMatrixLayoutCreate(&now.layouts[3], CUDA_R_32F, 4, 2, 4); };
  });
  integers_fail("alpha and beta are not of the type", [](ProductCall& call) { call.scale = CUDA_R_32F; });
  integers_fail("A is to be transposed, and B is not", [](ProductCall& call) { call.transposed_a = false; });
  integers_fail("an epilogue in integers", [](ProductCall& call) { call.epilogue = CUBLASLT_EPILOGUE_RELU; });
  integers_fail("A of integers has leading dimension 20", [](ProductCall& call) { call.leading[0] = 20; });
  integers_fail("extents that are no multiples of 4", [](ProductCall& call) { call.rows = 3; });
  integers_fail("extents that are no multiples of 4", [](ProductCall& call) { call.leading[2] = 5; });
  integers_fail("B of integers is to begin where 16 bytes do",
                [](ProductCall& call) { call.alignments[1] = 8; });
}

TEST_CASE("cuBLASLt: invalid memory of a product is a mistake") {
  const Tensor host = Tensor::zeros({16});
  fails("cublasLtMatmul A: this is not device memory",
        [&](ProductCall& call) { call.pointers[0] = host.data<float>(); });
  fails("cublasLtMatmul B: 32 bytes at offset 240 of 256",
        [](ProductCall& call) { call.pointers[1] = call.at(60); });
  fails("cublasLtMatmul D: 24 bytes at offset 240 of 256",
        [](ProductCall& call) { call.pointers[3] = call.at(60); });
  fails("C: 24 bytes at offset 240 of 256", [](ProductCall& call) {
    call.beta = 1;
    call.pointers[2] = call.at(60);
  });
  fails("the bias: 12 bytes at offset 256 of 256", [](ProductCall& call) {
    call.epilogue = CUBLASLT_EPILOGUE_BIAS;
    call.bias = call.at(64);
  });
  fails("A is aligned to 4 bytes, and 16 were preferred",
        [](ProductCall& call) { call.pointers[0] = call.at(1); });
  fails("C need not even be aligned", [](ProductCall& call) { call.alignments[2] = 2; });
  fails("is 12, no power of two", [](ProductCall& call) { call.alignments[2] = 12; });
  fails("the bias is less aligned", [](ProductCall& call) {
    call.epilogue = CUBLASLT_EPILOGUE_BIAS;
    call.then = [](ProductCall& now) {
      now.bias = now.at(49);
      cublasLtMatmulDescSetAttribute(now.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &now.bias,
                                     sizeof now.bias);
    };
  });
  fails("there is no bias pointer", [](ProductCall& call) {
    call.epilogue = CUBLASLT_EPILOGUE_RELU_BIAS;
    call.bias = nullptr;
  });
  fails("A and D overlap", [](ProductCall& call) { call.pointers[0] = call.at(36); });
  fails("C and D overlap", [](ProductCall& call) {
    call.beta = 1;
    call.pointers[2] = call.at(36);
  });
  fails("A and workspace overlap", [](ProductCall& call) {
    call.workspace = call.memory.raw();
    call.workspace_bytes = 256;
  });
  fails("needs 256 bytes of workspace and gets 255", [](ProductCall& call) { call.workspace_bytes = 255; });
  fails("the workspace is not aligned to 256 bytes",
        [](ProductCall& call) { call.workspace = call.room.data<std::uint8_t>() + 16; });
  fails("workspace: 4096 bytes at offset 0 of 2048", [](ProductCall& call) { call.workspace_bytes = 4096; });
}

TEST_CASE("cuBLASLt: invalid handles and descriptions are mistakes") {
  fails("cublasLtMatmul: null is where a cuBLASLt handle should be",
        [](ProductCall& call) { call.then = [](ProductCall& now) { now.handle = nullptr; }; });
  fails("cublasLtMatmul: a destroyed handle is where a cuBLASLt handle should be",
        [](ProductCall& call) { call.then = [](ProductCall& now) { cublasLtDestroy(now.handle); }; });
  fails("a destroyed handle is where a description of a product should be", [](ProductCall& call) {
    call.then = [](ProductCall& now) { cublasLtMatmulDescDestroy(now.operation); };
  });
  fails("cublasLtMatmul: B: a destroyed handle is where a matrix's layout should be", [](ProductCall& call) {
    call.then = [](ProductCall& now) { cublasLtMatrixLayoutDestroy(now.layouts[1]); };
  });
  fails("is where a preference should be", [](ProductCall& call) {
    call.before = [](ProductCall& now) { cublasLtMatmulPreferenceDestroy(now.preference); };
  });
  fails("a stream is used that was destroyed", [](ProductCall& call) {
    call.then = [](ProductCall& now) {
      const cuda::Stream gone;
      now.stream = gone.handle();
    };
  });
  cublasLtMatmulDesc_t operation = nullptr;
  CHECK(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
  const std::uint8_t narrow = CUBLAS_OP_T;
  CHECK(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &narrow, sizeof narrow) ==
        CUBLAS_STATUS_INVALID_VALUE);
  CHECK_THAT(emulator::take_report(), Contains("CUBLASLT_MATMUL_DESC_TRANSA wants 4 bytes and gets 1"));
}

// A product by the project's own function.
void square(const Tensor& from, const Tensor& to) {
  multiply("square", cuda::MatrixProduct<float>{.m = 8,
                                                .n = 8,
                                                .k = 8,
                                                .a = {from.data<float>(), 8},
                                                .b = {from.data<float>(), 8},
                                                .c = to.data<float>(),
                                                .c_stride = 8});
}

TEST_CASE("a mistake in a product becomes an Error that describes it") {
  const Tensor values = cuda::to_device(ramp(64));
  CHECK_THROWS_WITH(square(values, values),
                    Contains("square: cuBLASLt says: cublasLtMatmul: A and D overlap"));
  CHECK_THAT(emulator::take_report(), Contains("overlap"));
  CHECK_NOTHROW(square(values, cuda::empty_on_device({64})));
}

TEST_CASE("a missing wait for a product on another stream is detected") {
  const Tensor from = cuda::to_device(ramp(64)), to = cuda::to_device(ramp(64)), result = Tensor::empty({64});
  const cuda::Stream producer, consumer;
  const cuda::Event multiplied;
  for (const bool waits : {true, false}) {
    {
      const cuda::StreamScope scope(producer);
      square(from, to);
      multiplied.record(producer.handle());
    }
    if (waits) consumer.wait_for(multiplied);
    {
      const cuda::StreamScope scope(consumer);
      cuda::copy(to, result);
    }
    if (waits) {
      CHECK_NOTHROW(consumer.synchronize());
      CHECK(result.data<float>()[0] == 1380);
    } else {
      producer.synchronize();
      CHECK_THROWS_WITH(
          consumer.synchronize(),
          Contains("a copy reads offset 0 of") && Contains("a product of matrices on another stream wrote"));
      emulator::take_report();
    }
  }
  // The other direction: the product reads memory that another stream's fill writes.
  cuda::check(cudaMemsetAsync(from.raw(), 0, from.bytes(), consumer.handle()), "zeros");
  const cuda::StreamScope scope(producer);
  square(from, to);
  consumer.synchronize();
  CHECK_THROWS_WITH(producer.synchronize(),
                    Contains("a product of matrices reads") && Contains("a fill on another stream wrote"));
  emulator::take_report();
}

}  // namespace
}  // namespace conclave

# Decides whether to build the CUDA backend and finds its compiler. Sets CONCLAVE_WITH_CUDA.
set(CONCLAVE_WITH_CUDA OFF)
if(CONCLAVE_CUDA STREQUAL OFF)
  return()
endif()

find_program(CONCLAVE_NVCC nvcc HINTS /usr/local/cuda/bin)
# Off without a driver: nothing could run the backend, and its kernels take minutes to compile.
find_library(CONCLAVE_CUDA_DRIVER NAMES libcuda.so.1)
if(CONCLAVE_CUDA STREQUAL AUTO AND NOT CONCLAVE_CUDA_DRIVER)
  if(CONCLAVE_NVCC)
    message(NOTICE "There will be no CUDA backend: this machine has nvcc, but no driver (libcuda.so.1). To build for "
                   "another machine, set CONCLAVE_CUDA to ON.")
  endif()
  return()
endif()

find_path(CONCLAVE_NCCL_INCLUDE nccl.h HINTS /usr/local/cuda/include)
find_path(CONCLAVE_CUDNN_INCLUDE cudnn.h HINTS /usr/local/cuda/include)
if(NOT CONCLAVE_NVCC OR NOT CONCLAVE_NCCL_INCLUDE OR NOT CONCLAVE_CUDNN_INCLUDE)
  set(message "There will be no CUDA backend, for want of the CUDA toolkit (nvcc), NCCL (nccl.h) or cuDNN 9 (cudnn.h).")
  if(CONCLAVE_CUDA STREQUAL AUTO)
    message(NOTICE "${message}")
    return()
  endif()
  message(FATAL_ERROR "${message} NVIDIA's packages are cuda-toolkit, libnccl-dev and libcudnn9-dev-cuda-13; or set CONCLAVE_CUDA to OFF.")
endif()

set(CONCLAVE_WITH_CUDA ON)
set(CMAKE_CUDA_COMPILER ${CONCLAVE_NVCC})
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)  # A100, H100; later GPUs translate the PTX for H100
endif()
set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know nvcc's option for C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()

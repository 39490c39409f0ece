# The emulated device on several ranks, with an emulated NCCL: tests the parts of parallel/ that move tensors.
# Included by ../CMakeLists.txt after emulated.cmake and the tests with MPI.
if(NOT TARGET conclave_emulated)
  return()
endif()

set(parallel ${PROJECT_SOURCE_DIR}/parallel)
file(GLOB emulated_parallel CONFIGURE_DEPENDS ${parallel}/nccl_*.cpp ${parallel}/staged_*.cpp ${parallel}/device_*.cpp)
if(CONCLAVE_COVERAGE)
  set_property(SOURCE ${emulated_parallel} APPEND PROPERTY COMPILE_OPTIONS --coverage -O0)
endif()
add_library(emulated_parallel OBJECT ${emulator}/nccl.cpp ${emulator}/mpi.cpp ${emulated_parallel})
target_link_libraries(emulated_parallel PRIVATE conclave_emulated MPI::MPI_C conclave_flags)
target_compile_options(emulated_parallel PRIVATE -O1)
add_executable(emulated_mpi_tests mpi_main.cpp $<TARGET_OBJECTS:test_runner> ${test_values} ${emulator}/nccl_test.cpp
               $<TARGET_OBJECTS:emulated_parallel> ${parallel}/communicator.cpp ${parallel}/communicator_arguments.cpp
               ${parallel}/mpi_communicator.cpp ${parallel}/process_grid.cpp)
target_link_libraries(emulated_mpi_tests PRIVATE conclave_emulated MPI::MPI_C Threads::Threads Catch2::Catch2
                      conclave_flags)
target_compile_options(emulated_mpi_tests PRIVATE -O1)

# The conclave program on emulated devices. The sources compiled here, for CUDA, take precedence over the same ones
# in the libraries.
add_executable(emulated_conclave ${PROJECT_SOURCE_DIR}/recipes/conclave.cpp $<TARGET_OBJECTS:emulated_parallel>)
target_link_libraries(emulated_conclave PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,conclave_emulated> conclave_commands
                      conclave_flags)
target_compile_definitions(emulated_conclave PRIVATE CONCLAVE_VERSION="${PROJECT_VERSION}")
target_compile_options(emulated_conclave PRIVATE -O1)
set_target_properties(emulated_parallel emulated_mpi_tests emulated_conclave PROPERTIES UNITY_BUILD OFF)

foreach(ranks IN ITEMS 1 2 4)
  add_test(NAME emulated_mpi_${ranks}
           COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe -n ${ranks} $<TARGET_FILE:emulated_mpi_tests>)
  set_tests_properties(emulated_mpi_${ranks} PROPERTIES LABELS mpi PROCESSORS ${ranks} TIMEOUT 300
                       ENVIRONMENT "${mpi_environment};OMP_NUM_THREADS=1" DEPENDS "${unit_names}")
  list(APPEND mpi_names emulated_mpi_${ranks})
endforeach()

# Checks the emulated headers: code that uses them must compile with the real ones, too.
find_path(CONCLAVE_NCCL_INCLUDE nccl.h HINTS /usr/local/cuda/include)
find_path(CONCLAVE_CUDA_INCLUDE cuda_runtime.h HINTS /usr/local/cuda/include)
if(CONCLAVE_NCCL_INCLUDE AND CONCLAVE_CUDA_INCLUDE)
  list(TRANSFORM MPI_C_INCLUDE_DIRS PREPEND -isystem OUTPUT_VARIABLE mpi_includes)
  add_test(NAME cuda/nccl_headers
           COMMAND ${CMAKE_CXX_COMPILER} -std=c++20 -fsyntax-only -fopenmp -Wall -Wextra -Wpedantic -Werror
                   -DCONCLAVE_CUDA=1 -I${PROJECT_SOURCE_DIR} -isystem${CONCLAVE_NCCL_INCLUDE}
                   -isystem${CONCLAVE_CUDA_INCLUDE} ${mpi_includes} ${emulated_parallel})
  set_tests_properties(cuda/nccl_headers PROPERTIES LABELS cuda TIMEOUT 300)
endif()

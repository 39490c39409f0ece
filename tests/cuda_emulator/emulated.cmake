# The CUDA backend on an emulated device, in one process. Builds core once more, with its .cu files as C++ against the
# headers in include/. Included by ../CMakeLists.txt.
find_library(CONCLAVE_BOOST_CONTEXT boost_context)
find_path(CONCLAVE_BOOST_INCLUDE boost/context/detail/fcontext.hpp)
if(NOT CONCLAVE_BOOST_CONTEXT OR NOT CONCLAVE_BOOST_INCLUDE)
  message(${leave_out} "The CUDA kernels are not tested, for want of Boost.Context; scripts/setup --test installs it.")
  return()
endif()

set(emulator ${CMAKE_CURRENT_SOURCE_DIR}/cuda_emulator)
set(core ${PROJECT_SOURCE_DIR}/core)
file(GLOB emulator_sources CONFIGURE_DEPENDS ${emulator}/*.cpp)
file(GLOB emulated_test_sources CONFIGURE_DEPENDS ${emulator}/*_test.cpp ${emulator}/*_test.cu)
list(REMOVE_ITEM emulator_sources ${emulated_test_sources})
foreach(list IN ITEMS emulator_sources emulated_test_sources)  # ranks.cmake builds these
  list(FILTER ${list} EXCLUDE REGEX "/(nccl|nccl_test|mpi)\\.cpp$")
endforeach()
file(GLOB emulated_sources CONFIGURE_DEPENDS ${core}/*.cpp)
file(GLOB emulated_twins CONFIGURE_DEPENDS ${core}/kernels/*.cpp)
file(GLOB emulated_cuda CONFIGURE_DEPENDS ${core}/cuda/*.cpp)
set_source_files_properties(${emulated_cuda} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)  # as in core/CMakeLists.txt
list(APPEND emulated_sources ${emulated_cuda})
file(GLOB emulated_kernels CONFIGURE_DEPENDS ${core}/kernels/*.cu ${core}/cuda/*.cu)

# -fsanitize=thread inserts a call at every memory access. access.cpp implements these calls; the sanitizer's own
# library is not linked. AddressSanitizer excludes this option. It finds fewer mistakes, but in host code, too.
set(kernel_options -Wno-unknown-pragmas -x c++)  # #pragma unroll
if(CONCLAVE_SANITIZE)  # AddressSanitizer finds the same mistakes; without these, compiling takes half the time
  list(APPEND kernel_options -fno-sanitize=null,object-size,vptr)
else()
  list(APPEND kernel_options -fsanitize=thread)
endif()
function(conclave_emulate_kernels)
  foreach(source IN LISTS ARGN)
    if(source MATCHES "\\.cu$")
      set_source_files_properties(${source} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${kernel_options}"
                                  SKIP_PRECOMPILE_HEADERS ON)
    endif()
  endforeach()
endfunction()

add_library(emulated_twins OBJECT ${emulated_twins})  # the processor's kernels, which call those of the device
if(CONCLAVE_SANITIZE)  # other tests sanitize these
  target_compile_options(emulated_twins PRIVATE -fno-sanitize=all)
endif()
add_library(emulated_kernels OBJECT ${emulated_kernels})
set_source_files_properties(${emulated_kernels} PROPERTIES LANGUAGE CXX)
target_compile_options(emulated_kernels PRIVATE ${kernel_options})
add_library(conclave_emulated STATIC ${emulator_sources} ${emulated_sources} $<TARGET_OBJECTS:emulated_kernels>
            $<TARGET_OBJECTS:emulated_twins>)
set_source_files_properties(${emulator_sources} PROPERTIES COMPILE_OPTIONS -O2)  # these files take most of the tests' time
if(CONCLAVE_COVERAGE)  # for scripts/coverage; unoptimized, as an optimizer merges lines
  set_property(SOURCE ${emulated_sources} ${emulated_twins} ${emulated_kernels}
               APPEND PROPERTY COMPILE_OPTIONS --coverage -O0)
  target_link_options(conclave_emulated PUBLIC --coverage -Wl,--undefined=__gcov_dump)  # mpi.cpp calls it
endif()
foreach(library IN ITEMS emulated_twins emulated_kernels conclave_emulated)
  target_include_directories(${library} BEFORE PUBLIC ${emulator}/include)
  target_include_directories(${library} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${library} PUBLIC CONCLAVE_CUDA=1)
  target_compile_options(${library} PRIVATE -O1)  # compiles fast, like the tests themselves
  target_compile_features(${library} PUBLIC cxx_std_20)
  target_link_libraries(${library} PUBLIC OpenMP::OpenMP_CXX fmt::fmt PkgConfig::openblas PkgConfig::xxhash
                        PRIVATE conclave_flags)
endforeach()
target_include_directories(conclave_emulated PRIVATE ${CONCLAVE_BOOST_INCLUDE})
target_link_libraries(conclave_emulated PRIVATE ${CONCLAVE_BOOST_CONTEXT})

add_library(emulated_operations OBJECT cuda/operations.cpp)
target_link_libraries(emulated_operations PRIVATE conclave_emulated conclave_flags)
target_compile_options(emulated_operations PRIVATE ${quickly})
add_executable(emulated_tests unit_main.cpp $<TARGET_OBJECTS:test_runner> ${emulated_test_sources} ${test_values}
               $<TARGET_OBJECTS:emulated_operations>)
conclave_emulate_kernels(${emulated_test_sources})
target_link_libraries(emulated_tests PRIVATE conclave_emulated Catch2::Catch2 conclave_flags)
target_compile_options(emulated_tests PRIVATE ${quickly})
target_precompile_headers(emulated_tests PRIVATE <catch2/catch.hpp>)
target_compile_definitions(emulated_tests PRIVATE CONCLAVE_SOURCE="${PROJECT_SOURCE_DIR}")
conclave_unit_tests(emulated_tests ${emulated_test_sources})
if(CONCLAVE_SANITIZED_DEVICE)
  add_dependencies(sanitized_tests emulated_tests)
endif()

# The program with which scripts/gpu_check measures; this test only checks that it runs.
add_executable(emulated_roofline cuda/roofline.cpp $<TARGET_OBJECTS:emulated_operations> cuda/peak.cu)
conclave_emulate_kernels(cuda/peak.cu)
target_link_libraries(emulated_roofline PRIVATE conclave_emulated conclave_flags)
add_dependencies(emulated_tests emulated_roofline)
add_test(NAME cuda_emulator/roofline COMMAND emulated_roofline --small)
set_tests_properties(cuda_emulator/roofline PROPERTIES LABELS unit PROCESSORS ${cores} TIMEOUT 300
                     ENVIRONMENT "${unit_environment}")

# Checks the emulated header: code that uses it must compile with the real one, too. See also ranks.cmake.
find_path(CONCLAVE_CUDNN_INCLUDE cudnn.h HINTS /usr/local/cuda/include)
find_path(CONCLAVE_CUDA_INCLUDE cuda_runtime.h HINTS /usr/local/cuda/include)
if(CONCLAVE_CUDNN_INCLUDE AND CONCLAVE_CUDA_INCLUDE)
  add_test(NAME cuda/cudnn_headers
           COMMAND ${CMAKE_CXX_COMPILER} -std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Werror -DCONCLAVE_CUDA=1
                   -I${PROJECT_SOURCE_DIR} -isystem${CONCLAVE_CUDNN_INCLUDE} -isystem${CONCLAVE_CUDA_INCLUDE}
                   ${core}/cuda/dnn.cpp)
  set_tests_properties(cuda/cudnn_headers PROPERTIES LABELS cuda TIMEOUT 300)
endif()

# The CUDA backend on an emulated device: core once more, its .cu files as C++ for the headers in include/. For
# ../CMakeLists.txt.
find_library(CONCLAVE_BOOST_CONTEXT boost_context)
if(NOT CONCLAVE_BOOST_CONTEXT)
  message(NOTICE "The CUDA kernels are not tested, for want of Boost.Context; scripts/setup --test installs it.")
  return()
endif()

set(emulator ${CMAKE_CURRENT_SOURCE_DIR}/cuda_emulator)
set(core ${PROJECT_SOURCE_DIR}/core)
file(GLOB emulated_sources CONFIGURE_DEPENDS ${core}/*.cpp ${core}/kernels/*.cpp ${core}/cuda/*.cpp)
file(GLOB emulated_kernels CONFIGURE_DEPENDS ${core}/kernels/*.cu)
add_library(conclave_emulated STATIC ${emulator}/emulator.cpp ${emulated_sources} ${emulated_kernels})
if(emulated_kernels)
  set_source_files_properties(${emulated_kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
endif()
target_include_directories(conclave_emulated BEFORE PUBLIC ${emulator}/include)
target_include_directories(conclave_emulated PUBLIC ${PROJECT_SOURCE_DIR})
target_compile_definitions(conclave_emulated PUBLIC CONCLAVE_CUDA=1)
target_compile_options(conclave_emulated PRIVATE -O1)  # quickly, as the tests themselves
target_compile_features(conclave_emulated PUBLIC cxx_std_20)
target_link_libraries(conclave_emulated PUBLIC OpenMP::OpenMP_CXX fmt::fmt PkgConfig::openblas
                      PRIVATE conclave_flags ${CONCLAVE_BOOST_CONTEXT})

file(GLOB emulated_test_sources CONFIGURE_DEPENDS cuda_emulator/*_test.cpp)
add_executable(emulated_tests main.cpp ${emulated_test_sources})
target_link_libraries(emulated_tests PRIVATE conclave_emulated Catch2::Catch2 conclave_flags)
target_compile_options(emulated_tests PRIVATE -O1)
conclave_unit_tests(emulated_tests ${emulated_test_sources})
add_dependencies(sanitized_tests emulated_tests)

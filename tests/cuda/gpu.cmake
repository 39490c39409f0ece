# The tests of kernels and the measuring program on a GPU, which scripts/gpu_check runs. For ../CMakeLists.txt.
file(GLOB kernel_tests CONFIGURE_DEPENDS cuda_emulator/kernels_*_test.cpp)
add_executable(cuda_tests $<TARGET_OBJECTS:test_main> ${kernel_tests} cuda/gpu.cpp)
add_executable(cuda_roofline cuda/roofline.cpp cuda/operations.cpp cuda/peak.cu)
foreach(program IN ITEMS cuda_tests cuda_roofline)
  target_link_libraries(${program} PRIVATE conclave_core)
endforeach()
target_link_libraries(cuda_tests PRIVATE Catch2::Catch2)

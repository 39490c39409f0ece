// The entry point that libFuzzer calls. scripts/fuzz defines the target function and its header.
#include CONCLAVE_FUZZ_HEADER

#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  conclave::CONCLAVE_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}

// libFuzzer's way into a target, which scripts/fuzz names with the header that it is in.
#include CONCLAVE_FUZZ_HEADER

#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  conclave::CONCLAVE_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}

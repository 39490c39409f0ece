// libFuzzer's way into one of targets.h, which scripts/fuzz names.
#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  conclave::CONCLAVE_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}

// Reports a processor without the instructions that the program was compiled for, which would otherwise end
// in an illegal instruction. Only this file is compiled for the baseline instruction set, and its check runs
// before any other initializer.
#include <unistd.h>

#include <cstring>

#include "core/device.h"

namespace conclave {
namespace {

[[gnu::constructor(101)]] void check_processor() {
#if defined(__x86_64__) && defined(CONCLAVE_NEEDS_X86_64_V3)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    return;
  const char* message =
      "conclave: this processor lacks AVX2, FMA or BMI2, for which this program was built.\n"
      "conclave: configure it with -DCONCLAVE_MARCH=x86-64 and build it again:\n"
      "    cmake --preset release -DCONCLAVE_MARCH=x86-64 && cmake --build --preset release\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, message, std::strlen(message));
  _exit(78);  // EX_CONFIG of sysexits.h
#endif
}

}  // namespace

const bool processor_checked = true;

}  // namespace conclave

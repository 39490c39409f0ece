/* A plug-in for another ABI: none of its code may run. */
#include <stdlib.h>

const char conclave_plugin_abi[] = "conclave plug-in ABI 99; GCC 99, libstdc++, C++11 ABI 1";

__attribute__((constructor)) static void run(void) { abort(); }

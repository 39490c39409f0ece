// Most of Catch2, compiled once for all test programs.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include "tests/run_tests.h"

namespace conclave {

int run_tests(int argc, char** argv) { return Catch::Session().run(argc, argv); }

}  // namespace conclave

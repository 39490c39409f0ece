// The ranks a test binary with tests/mpi_main.cpp was started on.
#pragma once

#include "parallel/communicator.h"

namespace conclave {

/// All ranks of this run. Every rank runs the same test cases in the same order.
Communicator& test_world();

}  // namespace conclave

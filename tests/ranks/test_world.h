// The ranks that a test binary with tests/mpi_main.cpp was started on.
#pragma once

#include "parallel/communicator.h"

namespace conclave {

/// All ranks of this run. All ranks run the same test cases in the same order.
Communicator& test_world();

}  // namespace conclave

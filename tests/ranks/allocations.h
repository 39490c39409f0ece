// Counts calls of operator new in mpi_tests. unit_tests cannot use it, because the sanitizers replace
// operator new.
#pragma once

#include <cstddef>

namespace conclave {

/// Number of allocations that this thread has made so far.
std::size_t allocations();

}  // namespace conclave

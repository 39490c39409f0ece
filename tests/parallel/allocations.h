// What goes through operator new in mpi_tests; not in unit_tests, where the sanitizers have their own.
#pragma once

#include <cstddef>

namespace conclave {

/// By this thread, so far.
std::size_t allocations();

}  // namespace conclave

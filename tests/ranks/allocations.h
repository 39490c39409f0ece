// Counts calls of operator new in mpi_tests. unit_tests cannot use it, because the sanitizers replace
// operator new.
#pragma once

#include <cstddef>

namespace conclave {

/// Number of allocations that this thread has made so far.
std::size_t allocations();
/// Makes the `count`-th allocation from now on that any thread but this one makes throw std::bad_alloc; with
/// 0, none. Returns whether that of the call before has thrown.
bool fail_allocation(std::size_t count);

}  // namespace conclave

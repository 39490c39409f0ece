// Runs the test cases on every rank of an mpirun (or on one rank without it). Rank 0 prints; another rank
// prints only what it has to say about a failure. With several ranks the first failed test case ends the run
// on all of them: the others may be waiting, inside that test, for the rank that left it.
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <catch2/catch.hpp>
#include <iostream>
#include <sstream>

#include "parallel/mpi_communicator.h"
#include "tests/ranks/test_world.h"
#include "tests/run_tests.h"

namespace conclave {
namespace {

MpiSession* session = nullptr;
Communicator* world = nullptr;
std::ostringstream captured;  // what this rank would have printed, where it is not rank 0
std::streambuf* terminal = nullptr;

void report_failure() {
  std::cout.flush();
  if (world->rank() == 0) return;
  std::cout.rdbuf(terminal);
  std::cout << "--- rank " << world->rank() << " of " << world->size() << " ---\n"
            << captured.str() << std::flush;
}

struct EndAllOnFailure : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    if (stats.totals.assertions.allOk() || world->size() == 1) return;
    report_failure();
    session->abort(1);
  }
};
CATCH_REGISTER_LISTENER(EndAllOnFailure)

}  // namespace

Communicator& test_world() { return *world; }

}  // namespace conclave

int main(int argc, char** argv) {
  using namespace conclave;
  MpiSession mpi;
  const std::unique_ptr<Communicator> everyone = mpi.world();
  session = &mpi;
  world = everyone.get();
  terminal = std::cout.rdbuf();
  if (world->rank() != 0) std::cout.rdbuf(captured.rdbuf());
  const int failed = run_tests(argc, argv);
  if (failed != 0) report_failure();
  std::cout.rdbuf(terminal);
  return world->max(Index{failed != 0});
}

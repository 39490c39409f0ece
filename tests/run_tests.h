#pragma once

namespace conclave {

/// Runs the test cases that the command line chooses; returns the exit status, 0 if all passed.
int run_tests(int argc, char** argv);

}  // namespace conclave

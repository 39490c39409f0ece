#include "tests/run_tests.h"

int main(int argc, char** argv) { return conclave::run_tests(argc, argv); }

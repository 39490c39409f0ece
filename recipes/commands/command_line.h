#pragma once

#include <string>

#include "recipes/commands/commands.h"

namespace conclave::commands {

/// The program: does what its arguments say, and returns its exit status. 0: done, 1: failed, 2: a mistake in
/// the recipe or on the command line, 130: interrupted (after saving). `surroundings` is told here of
/// signals.
int run_command_line(int argc, char** argv, const std::string& version, Surroundings surroundings);

}  // namespace conclave::commands

// The command line: options and their checks, signals, and how an error becomes a message and an exit status.
#pragma once

#include <string>

#include "recipes/commands/commands.h"

namespace conclave::commands {

/// Runs the program with its arguments and returns its exit status. 0: done, 1: failed, 2: a mistake in the
/// recipe or on the command line, 130: interrupted (after saving). Connects `surroundings` to signals.
int run_command_line(int argc, char** argv, const std::string& version, ProcessEnvironment surroundings);

}  // namespace conclave::commands

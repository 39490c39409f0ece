// Warnings and errors that threads of the service print.
#pragma once

#include <cstdio>
#include <string>

namespace conclave::service {

/// Prints the line "conclave: TEXT" on standard error. fmt::print() throws where standard error is closed,
/// which would end the program when it happens in a thread; this function does not throw.
inline void complain(const std::string& text) noexcept {
  std::fputs("conclave: ", stderr);
  std::fputs(text.c_str(), stderr);
  std::fputs("\n", stderr);
}

}  // namespace conclave::service

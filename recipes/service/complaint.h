// What threads of the service say of what went wrong.
#pragma once

#include <cstdio>
#include <string>

namespace conclave::service {

/// "conclave: TEXT", a line on standard error. Throws nothing where nobody is there to read it, which
/// fmt::print() does: nobody would catch that in a thread.
inline void complain(const std::string& text) noexcept {
  std::fputs("conclave: ", stderr);
  std::fputs(text.c_str(), stderr);
  std::fputs("\n", stderr);
}

}  // namespace conclave::service

// Prints lines that are lost if they cannot be written, because the disk is full or nobody reads the pipe any
// more (in a program that ignores SIGPIPE).
// fmt::print() throws in that case, which would end the thread or the program: in the handler of an error, in
// place of the exit status. So all messages on standard error are printed by complain() or warn().
#pragma once

#include <cstdio>
#include <string_view>

namespace conclave {

/// Prints all `texts` as one line. Lines of several threads do not mix.
template <class... Texts>
void print_line(std::FILE* to, const Texts&... texts) noexcept {
  flockfile(to);
  for (const std::string_view text : {std::string_view(texts)..., std::string_view("\n")})
    std::fwrite(text.data(), 1, text.size(), to);
  std::fflush(to);
  funlockfile(to);
}

/// Prints the line "conclave: TEXT" on standard error, where TEXT is all `texts`. Does not throw, and needs
/// no memory.
template <class... Texts>
void complain(const Texts&... texts) noexcept {
  print_line(stderr, "conclave: ", texts...);
}

/// Prints the line "conclave: warning: TEXT" on standard error. Does not throw, and needs no memory.
template <class... Texts>
void warn(const Texts&... texts) noexcept {
  complain("warning: ", texts...);
}

}  // namespace conclave

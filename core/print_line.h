// Prints lines that are lost if they cannot be written, because the disk is full or nobody reads the pipe any
// more (in a program that ignores SIGPIPE).
// fmt::print() throws in that case, which would end the thread or the program.
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

}  // namespace conclave

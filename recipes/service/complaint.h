// Warnings and errors that threads of the service print.
#pragma once

#include <cstdio>
#include <string_view>

namespace conclave::service {

/// Prints the line "conclave: TEXT" on standard error, where TEXT is all `texts`. fmt::print() throws where
/// standard error is closed, which would end the program when it happens in a thread; this function does not
/// throw, and needs no memory.
template <class... Texts>
void complain(const Texts&... texts) noexcept {
  for (const std::string_view text :
       {std::string_view("conclave: "), std::string_view(texts)..., std::string_view("\n")})
    std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace conclave::service

// Warnings and errors that threads of the service print.
#pragma once

#include "core/print_line.h"

namespace conclave::service {

/// Prints the line "conclave: TEXT" on standard error, where TEXT is all `texts`. Does not throw, and needs
/// no memory.
template <class... Texts>
void complain(const Texts&... texts) noexcept {
  print_line(stderr, "conclave: ", texts...);
}

}  // namespace conclave::service

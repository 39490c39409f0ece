// Whole files in and out. A written file appears under its name only once all of it is on disk, so a reader,
// another process writing the same file, or a crash never meets half of one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace conclave {

/// All bytes of the file at `path`; throws Error naming it, the system's reason and `advice` (what to do
/// next).
std::string read_file(const std::string& path, std::string_view advice);

/// Replaces the file at `path`, or makes it; throws Error.
void write_file_atomically(const std::string& path, std::string_view bytes);

/// Offset of the first byte that is not well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms, at
/// most U+10FFFF); npos where all of `text` is.
std::size_t find_invalid_utf8(std::string_view text);

}  // namespace conclave

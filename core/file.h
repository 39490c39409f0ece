// Reading and writing of whole files. A written file appears under its name only after all of it is on disk,
// so neither a reader, nor another process that writes the same file, nor a crash leaves or sees half a file.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace conclave {

/// All bytes of the file at `path`. Throws Error with the path, the system's reason and `advice` (what the
/// user should do next; "": nothing). With `most`, more bytes than that are an Error, too; without, the file
/// must be a regular one, because others may have no end.
std::string read_file(const std::string& path, std::string_view advice,
                      std::optional<std::size_t> most = std::nullopt);

/// Creates or replaces the file at `path`, also where several processes do so at once; throws Error on
/// failure.
void write_file_atomically(const std::string& path, std::string_view bytes);
/// The same for a file that one process at a time writes: what a crash leaves beside it is gone with the next
/// write, and at no time does anybody have other rights to the bytes than `mode` gives.
void replace_file(const std::string& path, std::string_view bytes, unsigned mode = 0644);

/// Offset of the first sequence in `text` that is not well-formed UTF-8 (RFC 3629: no surrogates, no overlong
/// forms, at most U+10FFFF); npos if all of `text` is well-formed.
std::size_t find_invalid_utf8(std::string_view text);

}  // namespace conclave

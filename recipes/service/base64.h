// Base64 (RFC 4648, section 4), the encoding of bytes in JSON.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace conclave::service {

std::string to_base64(std::string_view bytes);
/// Ignores line breaks. Returns nullopt for text that is not base64 or lacks its padding.
std::optional<std::string> from_base64(std::string_view letters);

}  // namespace conclave::service

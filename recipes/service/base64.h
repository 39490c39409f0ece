// Bytes as letters (RFC 4648, section 4), which is how JSON carries them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace conclave::service {

std::string to_base64(std::string_view bytes);
/// Newlines between are passed over; none for what is no base64, or lacks its padding.
std::optional<std::string> from_base64(std::string_view letters);

}  // namespace conclave::service

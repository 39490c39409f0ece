// Parser of multipart/form-data bodies (RFC 7578). One pass divides a body into parts, so the time is linear
// in its size, whatever it contains.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "recipes/service/query.h"

namespace conclave::service {

struct FormPart {
  std::string_view name, content;
};

/// The boundary parameter of a Content-Type; nullopt where the type is not multipart/form-data, or where the
/// boundary is missing or invalid.
std::optional<std::string_view> form_boundary(std::string_view content_type);

/// The parts between the boundaries, as views of `body`. Throws Refusal (400) where the boundary does not
/// occur, a part has no name or no end, or there are more than kMostParts.
std::vector<FormPart> form_parts(std::string_view body, std::string_view boundary);

inline constexpr std::size_t kMostParts = 64;

}  // namespace conclave::service

// Bodies of forms, multipart/form-data (RFC 7578), divided into their parts in one pass over them: whatever
// they say, reading them takes as long as they are.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "recipes/service/query.h"

namespace conclave::service {

struct FormPart {
  std::string_view name, content;
};

/// The boundary that a Content-Type tells of; nothing where it is no form's, or has none.
std::optional<std::string_view> form_boundary(std::string_view content_type);

/// The parts between such boundaries, of `body`'s memory. Throws Refusal (400) where a part has no name, is
/// not ended, or there are more than kMostParts.
std::vector<FormPart> form_parts(std::string_view body, std::string_view boundary);

inline constexpr std::size_t kMostParts = 64;

}  // namespace conclave::service

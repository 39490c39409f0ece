// Files of this folder that the build embeds in the program (recipes/CMakeLists.txt).
#pragma once

#include <string_view>

namespace conclave::service {

extern const std::string_view kPage;     ///< page.html
extern const std::string_view kOpenApi;  ///< openapi.json

}  // namespace conclave::service

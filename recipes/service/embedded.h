// Files of this folder that the program has in it (recipes/CMakeLists.txt).
#pragma once

#include <string_view>

namespace conclave::service {

extern const std::string_view kPage;     ///< page.html
extern const std::string_view kOpenApi;  ///< openapi.json

}  // namespace conclave::service

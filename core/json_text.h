// JSON as programs that read lines take it.
#pragma once

#include <string>

namespace conclave {

/// `json`, of nlohmann's library, on one line; with `ascii`, all else is escaped. Bytes that are not UTF-8
/// become replacement characters, so that the text is valid JSON whatever a file's name or a label has.
template <class Json>
std::string json_text(const Json& json, bool ascii = false) {
  return json.dump(-1, ' ', ascii, Json::error_handler_t::replace);
}

}  // namespace conclave

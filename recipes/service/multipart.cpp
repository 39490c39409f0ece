#include "recipes/service/multipart.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "core/text.h"

namespace conclave::service {
namespace {

constexpr std::string_view kNewLine = "\r\n";
constexpr std::size_t kMostBoundary = 70;  // RFC 2046, section 5.1.1

[[noreturn]] void refuse_form(std::string_view why) {
  throw Refusal(400, "bad_form", fmt::format("the form is malformed: {}", why));
}

// Removes the text up to and including the first `end` from the front of `text` and returns the text before
// `end`. Removes and returns all of it where `end` does not occur.
std::string_view taken(std::string_view& text, std::string_view end) {
  const std::size_t at = text.find(end);
  const std::string_view first = text.substr(0, at);
  text.remove_prefix(at == std::string_view::npos ? text.size() : at + end.size());
  return first;
}

// The value of `wanted` among `name=value; name="value"; ...`.
std::optional<std::string_view> parameter(std::string_view text, std::string_view wanted) {
  while (!text.empty()) {
    const std::size_t end = text.find_first_of("=;");
    const std::string_view name = trimmed(text.substr(0, end));
    const bool has_value = end != std::string_view::npos && text[end] == '=';
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (!has_value) continue;
    std::string_view value;
    if (text.starts_with('"')) {
      text.remove_prefix(1);
      value = taken(text, "\"");
      taken(text, ";");
    } else {
      value = trimmed(taken(text, ";"));
    }
    if (same_but_for_case(name, wanted)) return value;
  }
  return std::nullopt;
}

// The name in a part's headers; nullopt where none of them has one.
std::optional<std::string_view> name_of_part(std::string_view headers) {
  while (!headers.empty()) {
    std::string_view line = taken(headers, kNewLine);
    if (!same_but_for_case(trimmed(taken(line, ":")), "content-disposition")) continue;
    if (!same_but_for_case(trimmed(taken(line, ";")), "form-data")) return std::nullopt;
    return parameter(line, "name");
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string_view> form_boundary(std::string_view content_type) {
  if (!same_but_for_case(trimmed(taken(content_type, ";")), "multipart/form-data")) return std::nullopt;
  const auto boundary = parameter(content_type, "boundary");
  return boundary && !boundary->empty() && boundary->size() <= kMostBoundary ? boundary : std::nullopt;
}

std::vector<FormPart> form_parts(std::string_view body, std::string_view boundary) {
  const std::string opening = fmt::format("--{}", boundary), next = fmt::format("{}--{}", kNewLine, boundary);
  // `rest` follows a boundary. Whether the line ends here, or two dashes end the form; otherwise these are
  // bytes of a part that only look like a boundary.
  const auto ends_here = [&](std::string_view rest) {
    return rest.starts_with("--") ||
           rest.substr(std::min(rest.find_first_not_of(" \t"), rest.size())).starts_with(kNewLine);
  };
  // The bytes before the next boundary; `body` then begins behind that boundary.
  const auto before_boundary = [&]() -> std::optional<std::string_view> {
    const std::string_view from = body;
    for (std::size_t at = 0; (at = from.find(next, at)) != std::string_view::npos; at += kNewLine.size()) {
      body = from.substr(at + next.size());
      if (ends_here(body)) return from.substr(0, at);
    }
    return std::nullopt;
  };
  if (body.starts_with(opening) && ends_here(body.substr(opening.size())))
    body.remove_prefix(opening.size());
  else if (!before_boundary())
    refuse_form("its boundary does not occur in it");
  std::vector<FormPart> parts;
  while (!body.starts_with("--")) {
    if (parts.size() == kMostParts) refuse_form(fmt::format("there are more than {} parts", kMostParts));
    taken(body, kNewLine);
    std::string_view headers;  // empty where the part begins with the empty line that ends the headers
    if (body.starts_with(kNewLine))
      body.remove_prefix(kNewLine.size());
    else
      headers = taken(body, "\r\n\r\n");
    const auto content = before_boundary();
    const auto name = name_of_part(headers);
    if (!content) refuse_form("a part has no end");
    if (!name) refuse_form("a part has no name");
    parts.push_back({*name, *content});
  }
  return parts;
}

}  // namespace conclave::service

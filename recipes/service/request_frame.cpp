#include "recipes/service/request_frame.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "core/text.h"

namespace conclave::service {
namespace {

constexpr std::size_t kMostHeader = 8000;  // bytes of one header; httplib cannot read longer ones

// A header name (RFC 9110, section 5.6.2). Other names, such as one with a tab before the colon, must be
// refused: if this service ignored such a header and a proxy did not, they would disagree on where the
// request ends.
bool is_token(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

// The path with %XX decoded, as httplib's routing sees it.
std::string decoded(std::string_view path) {
  std::string text;
  for (std::size_t i = 0; i < path.size(); ++i) {
    unsigned value = 0;
    const char* const digits = path.data() + i + 1;
    const bool coded = path[i] == '%' && i + 2 < path.size() &&
                       std::from_chars(digits, digits + 2, value, 16).ptr == digits + 2;
    text += coded ? static_cast<char>(value) : path[i];
    i += coded ? 2 : 0;
  }
  return text;
}

// The authority and the rest of a request's target, which may be a URL ("http://example.org/v1?a=b"). The
// authority of any other target is "".
std::pair<std::string_view, std::string_view> split_target(std::string_view target) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!same_but_for_case(target.substr(0, scheme.size()), scheme)) continue;
    target.remove_prefix(scheme.size());
    const std::size_t end = std::min(target.find_first_of("/?"), target.size());
    return {target.substr(0, end), end == target.size() ? "/" : target.substr(end)};
  }
  return {"", target};
}

// Whether a comma-separated list, such as "keep-alive, TE", contains `item`.
bool lists(std::string_view list, std::string_view item) {
  while (!list.empty())
    if (same_but_for_case(take_item(list), item)) return true;
  return false;
}

}  // namespace

RequestFrame::State RequestFrame::refuse(int status, const char* code, const char* reason) {
  status_ = status, code_ = code, reason_ = reason;
  return State::refused;
}

std::size_t RequestFrame::empty_lines(std::string_view bytes) {
  std::size_t size = 0;
  while (bytes.substr(size).starts_with("\r\n")) size += 2;
  return size;
}

RequestFrame::State RequestFrame::look(std::string_view bytes) {
  if (status_ != 0) return State::refused;
  if (bytes == "\r") return State::incomplete;
  if (head_ == 0) {
    const std::size_t from = seen_ < 3 ? 0 : seen_ - 3;  // the blank line may begin in bytes seen before
    const std::size_t end = bytes.find("\r\n\r\n", from);
    seen_ = bytes.size();
    const std::string_view head = bytes.substr(0, end);
    if (head.size() > limits_.head)
      return refuse(431, "head_too_large", "the request line and headers are too long");
    if (head.find('\0') != std::string_view::npos || (!head.empty() && (head[0] < 'A' || head[0] > 'Z')))
      return refuse(400, "bad_request", "this is not an HTTP request");
    if (end == std::string_view::npos) return State::incomplete;
    if (read_head(head) == State::refused) return State::refused;
    head_ = end + 4;
  }
  return bytes.size() - head_ >= body_ ? State::complete : State::incomplete;
}

RequestFrame::State RequestFrame::read_head(std::string_view head) {
  const std::string_view line = head.substr(0, head.find("\r\n"));
  if (!line.ends_with(" HTTP/1.1") && !line.ends_with(" HTTP/1.0"))
    return line.find(" HTTP/") == std::string_view::npos
               ? refuse(400, "bad_request", "this is not an HTTP request")
               : refuse(505, "http_version", "this service speaks HTTP/1.1");
  const std::size_t first = line.find(' '), last = line.rfind(' ');
  if (first == last) return refuse(400, "bad_request", "this is not an HTTP request");
  const auto [authority, target] = split_target(line.substr(first + 1, last - first - 1));
  told_ = {.method = std::string(line.substr(0, first)),
           .target = std::string(target.starts_with('?') ? "/" : "").append(target),
           .path = decoded(target.substr(0, target.find('?')))};
  if (told_.path.empty()) told_.path = "/";
  // HTTP/1.0's keep-alive would need an answer that names it; all that still speaks HTTP/1.0 copes without.
  told_.closes = !line.ends_with("1.1");
  const auto wrong = [&](int status, const char* code,
                         const char* reason) {  // keep the first error, but read on for X-Forwarded-For
    if (status_ == 0) refuse(status, code, reason);
  };
  std::optional<std::size_t> length;
  int hosts = 0;
  head.remove_prefix(std::min(head.size(), line.size() + 2));
  while (!head.empty()) {
    const std::string_view header = head.substr(0, head.find("\r\n"));
    head.remove_prefix(std::min(head.size(), header.size() + 2));
    const std::size_t colon = header.find(':');
    if (header.size() > kMostHeader) {
      wrong(431, "head_too_large", "a header is too long");
      continue;
    }
    if (colon == std::string_view::npos || !is_token(header.substr(0, colon)) ||
        header.find_first_of("\r\n") != std::string_view::npos) {
      told_.forwarded.clear();  // the proxy's entry may come later; those so far may be the client's own
      return refuse(400, "bad_request", "a header is malformed");
    }
    const std::string_view name = header.substr(0, colon), value = trimmed(header.substr(colon + 1));
    if (same_but_for_case(name, "transfer-encoding"))
      wrong(411, "length_required", "send the body whole, with a Content-Length");
    // httplib would decompress the body, possibly to a thousand times the size limit.
    if (same_but_for_case(name, "content-encoding") && !same_but_for_case(value, "identity"))
      wrong(415, "unsupported_encoding", "send the body as it is, without a Content-Encoding");
    if (same_but_for_case(name, "authorization")) told_.authorization = value;
    if (same_but_for_case(name, "host")) ++hosts, told_.host = value;
    if (same_but_for_case(name, "origin")) told_.origin = value;
    if (same_but_for_case(name, "sec-fetch-site")) told_.fetch_site = value;
    if (same_but_for_case(name, "x-forwarded-for"))
      told_.forwarded.append(told_.forwarded.empty() ? "" : ",").append(value);
    if (same_but_for_case(name, "connection")) told_.closes = told_.closes || lists(value, "close");
    if (same_but_for_case(name, "expect")) {
      if (!same_but_for_case(value, "100-continue"))
        wrong(417, "expectation", "Expect: only 100-continue is supported");
      expects_ = true;
    }
    if (!same_but_for_case(name, "content-length")) continue;
    std::size_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error == std::errc::result_out_of_range)
      wrong(413, "body_too_large", "the body is too large");
    else if (error != std::errc() || end != value.data() + value.size() || (length && *length != number))
      wrong(400, "bad_request", "Content-Length is not a number, or is given twice");
    length = number;
  }
  if (hosts > 1 || (hosts == 0 && line.ends_with("1.1")))
    wrong(400, "bad_request", "an HTTP/1.1 request has one Host");
  if (!authority.empty()) told_.host = authority;
  body_ = length.value_or(0);
  if (body_ > limits_.body) wrong(413, "body_too_large", "the body is too large");
  return status_ == 0 ? State::complete : State::refused;
}

bool RequestFrame::wants_to_be_told() {
  const bool wants = head_ > 0 && expects_;
  expects_ = expects_ && !wants;
  return wants;
}

}  // namespace conclave::service

// Finds the end of an HTTP/1.1 request (RFC 9112) in received bytes, which may be an incomplete request or no
// request at all. This happens before a thread handles the request, so a slow or hostile client costs only a
// buffer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace conclave::service {

struct FrameLimits {
  std::size_t head = std::size_t{16} << 10;  ///< bytes of request line and headers
  std::size_t body = std::size_t{16} << 20;
};

/// The parts of a request's head that are needed before its body has arrived.
struct RequestHead {
  std::string method = {};
  std::string target = {};         ///< path and query (?...), also where the request names a whole URL
  std::string path = {};           ///< of the target, percent-decoded
  std::string authorization = {};  ///< "" without the header
  std::string forwarded = {};      ///< all X-Forwarded-For headers, joined by commas
  std::string host = {};           ///< of the URL, or the header; "" without either
  std::string origin = {};         ///< Origin; "" without the header
  std::string fetch_site = {};     ///< Sec-Fetch-Site; "" without the header
  bool closes = false;             ///< the connection is to be closed after the answer
};

/// The state of a request that is being received. The search for the end of the head visits each byte once,
/// however few bytes arrive at a time.
class RequestFrame {
 public:
  explicit RequestFrame(const FrameLimits& limits) : limits_(limits) {}

  /// Bytes of empty lines before a request, which are to be ignored (RFC 9112, section 2.2).
  static std::size_t empty_lines(std::string_view bytes);

  enum class State : std::uint8_t { incomplete, complete, refused };
  /// `bytes`: all bytes received so far, from the first byte of the request. That byte may also be the first
  /// of an empty line of which more has not arrived.
  State look(std::string_view bytes);

  /// Bytes of a complete request.
  std::size_t size() const { return head_ + body_; }
  /// Null until the head is complete, and for a request that was refused because of its first line.
  const RequestHead* head() const { return told_.method.empty() ? nullptr : &told_; }
  /// Whether the head is complete and the client waits for "100 Continue" before it sends the body (Expect:
  /// 100-continue). Returns true once.
  bool wants_to_be_told();

  /// Of a refused request: 400, 411, 413, 415, 417, 431 or 505, and the reason.
  int status() const { return status_; }
  const char* code() const { return code_; }
  const char* reason() const { return reason_; }

 private:
  State refuse(int status, const char* code, const char* reason);
  State read_head(std::string_view head);

  FrameLimits limits_;
  std::size_t seen_ = 0, head_ = 0, body_ = 0;  // head_: 0 until the head is complete
  RequestHead told_;
  bool expects_ = false;
  int status_ = 0;
  const char *code_ = "", *reason_ = "";
};

}  // namespace conclave::service

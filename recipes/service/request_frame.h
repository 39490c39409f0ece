// Where an HTTP/1.1 request ends, among bytes that may be of a request not yet whole, or no request at all
// (RFC 9112): looked at before anybody acts on it, so that a slow or hostile client costs no more than a
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

/// What of a request's head is asked before its body has come.
struct RequestHead {
  std::string method, path;        ///< the latter decoded, without what follows a ?
  std::string authorization = {};  ///< "" without
  std::string forwarded = {};      ///< X-Forwarded-For, all of them
  bool closes = false;             ///< the connection, after the answer
};

/// A request so far. Bytes are looked at once, however few come at a time.
class RequestFrame {
 public:
  explicit RequestFrame(const FrameLimits& limits) : limits_(limits) {}

  enum class State : std::uint8_t { incomplete, complete, refused };
  /// `bytes` are all that came since the request's first.
  State look(std::string_view bytes);

  /// Of a complete one.
  std::size_t size() const { return head_ + body_; }
  /// Null until it is whole, or where it was refused for its first line.
  const RequestHead* head() const { return told_.method.empty() ? nullptr : &told_; }
  /// Its head is here, and the client waits to be told that its body is welcome (Expect: 100-continue); true
  /// once.
  bool wants_to_be_told();

  /// Of a refused one: 400, 411, 413, 415, 417, 431 or 505, and why.
  int status() const { return status_; }
  const char* code() const { return code_; }
  const char* reason() const { return reason_; }

 private:
  State refuse(int status, const char* code, const char* reason);
  State read_head(std::string_view head);

  FrameLimits limits_;
  std::size_t seen_ = 0, head_ = 0, body_ = 0;  // head_: 0 until it is whole
  RequestHead told_;
  bool expects_ = false;
  int status_ = 0;
  const char *code_ = "", *reason_ = "";
};

}  // namespace conclave::service

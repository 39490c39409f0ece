// A client's non-blocking socket, with TLS where a context is given.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <string>
#include <string_view>

#include "federated/openssl.h"

namespace conclave::service {

using TlsContext = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
/// Server context for TLS 1.3 and later. Throws Error, which names the file, where one of the two is
/// unusable.
TlsContext tls_context(const std::string& certificate, const std::string& key);

class Channel {
 public:
  /// Owns the descriptor, which must be non-blocking. `context`: null for a connection without TLS.
  Channel(int descriptor, SSL_CTX* context);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  int descriptor() const { return descriptor_; }
  enum class Result : std::uint8_t { done, wants_read, wants_write, closed };
  /// The TLS handshake: call it before read() and write() until it returns `done`.
  Result shake_hands();
  /// Appends at most 16 KiB of the available bytes to `bytes`.
  Result read(std::string& bytes);
  /// Whether TLS has decrypted bytes that read() returns without reading from the socket.
  bool holds_bytes() const { return tls_ && SSL_pending(tls_.get()) > 0; }
  /// Writes as many bytes as the socket accepts and removes them from the front of `bytes`.
  Result write(std::string_view& bytes);
  /// Shuts down the sending side: the client sees the end of the stream.
  void finish();

 private:
  Result result_of(int returned);

  int descriptor_;
  std::unique_ptr<SSL, Freed<SSL_free>> tls_;
  bool broken_ = false;  // TLS could not be set up; never fall back to plain text
};

}  // namespace conclave::service

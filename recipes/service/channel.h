// A client's socket, by TLS where there is a context for it; nothing that is done with it waits.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <string>
#include <string_view>

#include "federated/openssl.h"

namespace conclave::service {

using TlsContext = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
/// A server's, for TLS 1.3 and later; throws Error, naming the file, where one of the two is no good.
TlsContext tls_context(const std::string& certificate, const std::string& key);

class Channel {
 public:
  /// Takes over the descriptor, which does not block. `context`: null for none.
  Channel(int descriptor, SSL_CTX* context);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  int descriptor() const { return descriptor_; }
  enum class Result : std::uint8_t { done, wants_read, wants_write, closed };
  /// At first, until it is done.
  Result shake_hands();
  /// Appends what there is, or some of it, to `bytes`.
  Result read(std::string& bytes);
  /// Whether the next read() has some without those that the socket has.
  bool holds_bytes() const { return tls_ && SSL_pending(tls_.get()) > 0; }
  /// Takes what it can from the front of `bytes`.
  Result write(std::string_view& bytes);
  /// Says that nothing more will be written.
  void finish();

 private:
  Result result_of(int returned);

  int descriptor_;
  std::unique_ptr<SSL, Freed<SSL_free>> tls_;
  bool broken_ = false;  // what was to be by TLS is by nothing else
};

}  // namespace conclave::service

#include "recipes/service/channel.h"

#include <openssl/err.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/error.h"

namespace conclave::service {
namespace {

std::string tls_reason() {
  char text[256] = "unknown";
  if (const unsigned long error = ERR_get_error()) ERR_error_string_n(error, text, sizeof text);
  ERR_clear_error();
  return text;
}

}  // namespace

TlsContext tls_context(const std::string& certificate, const std::string& key) {
  TlsContext context(SSL_CTX_new(TLS_server_method()));
  require(context != nullptr, "TLS: {}", tls_reason());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                      SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_clear_mode(context.get(), SSL_MODE_AUTO_RETRY);  // records without data would keep read() in a loop
  bool asked = false;  // OpenSSL asked for a pass phrase, which a service cannot prompt for
  SSL_CTX_set_default_passwd_cb(context.get(), [](char*, int, int, void* was_asked) {
    *static_cast<bool*>(was_asked) = true;
    return 0;
  });
  SSL_CTX_set_default_passwd_cb_userdata(context.get(), &asked);
  require(SSL_CTX_use_certificate_chain_file(context.get(), certificate.c_str()) == 1,
          "--certificate {}: no PEM file of a certificate (and those that signed it): {}", certificate,
          tls_reason());
  const bool has_key = SSL_CTX_use_PrivateKey_file(context.get(), key.c_str(), SSL_FILETYPE_PEM) == 1;
  require(!asked, "--key {}: it is encrypted; decrypt it first, for example with openssl pkey", key);
  require(
      // has_key alone is not enough: SSL_CTX_use_PrivateKey_file compares only keys of the same type.
      has_key && SSL_CTX_check_private_key(context.get()) == 1,
      "--key {}: not a PEM file of a key, or not the key of the certificate: {}", key, tls_reason());
  SSL_CTX_set_default_passwd_cb_userdata(context.get(), nullptr);
  SSL_CTX_set_default_passwd_cb(context.get(), nullptr);
  return context;
}

Channel::Channel(int descriptor, SSL_CTX* context) : descriptor_(descriptor) {
  if (!context) return;
  tls_.reset(SSL_new(context));
  broken_ = !tls_ || SSL_set_fd(tls_.get(), descriptor_) != 1;
}

Channel::~Channel() {
  tls_.reset();
  ::close(descriptor_);
}

Channel::Result Channel::result_of(int returned) {
  switch (SSL_get_error(tls_.get(), returned)) {
    case SSL_ERROR_WANT_READ:
      return Result::wants_read;
    case SSL_ERROR_WANT_WRITE:
      return Result::wants_write;
    default:
      ERR_clear_error();
      return Result::closed;
  }
}

Channel::Result Channel::shake_hands() {
  if (broken_) return Result::closed;
  if (!tls_) return Result::done;
  ERR_clear_error();
  const int returned = SSL_accept(tls_.get());
  return returned == 1 ? Result::done : result_of(returned);
}

Channel::Result Channel::read(std::string& bytes) {
  std::array<char, std::size_t{16} << 10> piece;  // the largest TLS record
  ERR_clear_error();
  const auto got = tls_ ? SSL_read(tls_.get(), piece.data(), piece.size())
                        : static_cast<int>(::recv(descriptor_, piece.data(), piece.size(), 0));
  if (got > 0) {
    bytes.append(piece.data(), static_cast<std::size_t>(got));
    return Result::done;
  }
  if (tls_) return result_of(got);
  return got < 0 && (errno == EAGAIN || errno == EINTR) ? Result::wants_read : Result::closed;
}

Channel::Result Channel::write(std::string_view& bytes) {
  ERR_clear_error();
  const std::size_t some = std::min(bytes.size(), std::size_t{1} << 20);
  const auto put = tls_ ? SSL_write(tls_.get(), bytes.data(), static_cast<int>(some))
                        : static_cast<int>(::send(descriptor_, bytes.data(), some, MSG_NOSIGNAL));
  if (put > 0) {
    bytes.remove_prefix(static_cast<std::size_t>(put));
    return Result::done;
  }
  if (tls_) return result_of(put);
  return put < 0 && (errno == EAGAIN || errno == EINTR) ? Result::wants_write : Result::closed;
}

void Channel::finish() {
  if (tls_) SSL_shutdown(tls_.get());
  ERR_clear_error();
  ::shutdown(descriptor_, SHUT_WR);
}

}  // namespace conclave::service

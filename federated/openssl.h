// Smart pointers for OpenSSL's handles, each with the function that frees it.
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>

namespace conclave {

template <auto free>
struct Freed {
  template <class T>
  void operator()(T* handle) const {
    free(handle);
  }
};

using KeyPointer = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;
using CertificatePointer = std::unique_ptr<X509, Freed<X509_free>>;
using RequestPointer = std::unique_ptr<X509_REQ, Freed<X509_REQ_free>>;
using DigestPointer = std::unique_ptr<EVP_MD_CTX, Freed<EVP_MD_CTX_free>>;

}  // namespace conclave

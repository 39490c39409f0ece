#include "federated/secure_aggregation/mask.h"

#include <openssl/evp.h>

#include <exception>
#include <memory>

namespace conclave::secure_aggregation {
namespace {

const EVP_CIPHER* aes() {
  // fetched once: by EVP_aes_128_ctr(), OpenSSL 3 would look it up under a lock for every key
  static const std::unique_ptr<EVP_CIPHER, void (*)(EVP_CIPHER*)> cipher(
      EVP_CIPHER_fetch(nullptr, "AES-128-CTR", nullptr), EVP_CIPHER_free);
  require(cipher != nullptr, "OpenSSL has no AES-128-CTR");
  return cipher.get();
}

// One thread's generator.
class Stream {
 public:
  Stream() : context_(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free) {}

  // To byte 16 * block of a seed's stream: 16 bytes of key, 8 of nonce, and the counter beside it.
  void seek(const Secret& seed, std::uint64_t block) {
    const auto* key = reinterpret_cast<const unsigned char*>(seed.bytes().data());
    std::array<unsigned char, 16> counter;
    std::copy_n(key + 16, 8, counter.begin());
    for (int i = 0; i < 8; ++i) counter[15 - i] = static_cast<unsigned char>(block >> (8 * i));
    require(context_ && EVP_EncryptInit_ex(context_.get(), aes(), nullptr, key, counter.data()) == 1,
            "OpenSSL encrypts nothing by AES-128-CTR");
  }
  // The next bytes; whole blocks but for the last call.
  void next(std::span<std::byte> out) {
    int size;
    require(out.size() <= zeros_.size() &&
                EVP_EncryptUpdate(context_.get(), reinterpret_cast<unsigned char*>(out.data()), &size,
                                  zeros_.data(), static_cast<int>(out.size())) == 1,
            "OpenSSL encrypts nothing by AES-128-CTR");
  }

 private:
  static constexpr std::array<unsigned char, kBlockWords * 8> zeros_{};
  std::unique_ptr<EVP_CIPHER_CTX, void (*)(EVP_CIPHER_CTX*)> context_;
};

// To a group of words, of which the first is number `first` of the vector and begins a block.
template <class Word>
void add_masks(std::span<Word> words, std::size_t first, std::size_t width, std::span<const Mask> masks) {
  Stream stream;
  alignas(64) std::array<std::byte, kBlockWords * 8> block;
  for (const Mask& mask : masks) {
    stream.seek(mask.seed, first * width / 16);
    for (std::size_t at = 0; at < words.size(); at += kBlockWords) {
      const auto some = words.subspan(at, std::min(kBlockWords, words.size() - at));
      stream.next(std::span(block).first(some.size() * width));
      mask.subtract ? add_block<true>(some, width, block.data()) : add_block(some, width, block.data());
    }
  }
}

// What a thread throws, for the caller's thread.
class FirstError {
 public:
  template <class F>
  void guard(F f) noexcept {
    try {
      f();
    } catch (...) {
#pragma omp critical(secure_aggregation_first_error)
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::exception_ptr error_;
};

template <class Word>
void mask_group(std::span<const std::int64_t> values, std::size_t first, std::size_t width,
                std::span<const Mask> masks, std::byte* out) {
  thread_local std::vector<Word> words;  // of a group, in cache
  words.assign(values.begin(), values.end());
  add_masks(std::span(words), first, width, masks);
  for (std::size_t at = 0; at < words.size(); at += kBlockWords)
    pack_block(std::span<const Word>(words).subspan(at, std::min(kBlockWords, words.size() - at)), width,
               out + at * width);
}

}  // namespace

void add_masks(RingVector& vector, std::span<const Mask> masks) {
  FirstError error;
  vector.for_each_group([&](std::size_t first, auto words) {
    error.guard([&] { add_masks(words, first, vector.ring().width, masks); });
  });
  error.rethrow();
}

Bytes masked(Ring ring, std::span<const std::int64_t> values, std::span<const Mask> masks) {
  ring.check();
  Bytes packed(values.size() * ring.width);
  FirstError error;
#pragma omp parallel for schedule(static) if (values.size() > kGroupWords)
  for (std::size_t first = 0; first < values.size(); first += kGroupWords)
    error.guard([&] {
      const auto some = values.subspan(first, std::min(kGroupWords, values.size() - first));
      (ring.width <= 4
           ? mask_group<std::uint32_t>
           : mask_group<std::uint64_t>)(some, first, ring.width, masks, packed.data() + first * ring.width);
    });
  error.rethrow();
  return packed;
}

void SeededRandom::fill(std::span<std::byte> out) {
  Stream stream;
  stream.seek(seed_, next_);
  next_ += (out.size() + 15) / 16;
  for (std::size_t at = 0; at < out.size(); at += kBlockWords)
    stream.next(out.subspan(at, std::min(kBlockWords, out.size() - at)));
}

}  // namespace conclave::secure_aggregation

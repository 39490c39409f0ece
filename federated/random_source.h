// Where keys and privacy noise come from: a cryptographic generator, asked for in blocks. It is passed in, so
// that a test can say what comes. (core/random.h is for what must be reproducible: weights, dropout, the
// data's order.)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace conclave {

class RandomSource {
 public:
  virtual ~RandomSource() = default;
  /// Throws Error where there is no randomness to be had.
  virtual void fill(std::span<std::byte> out) = 0;
};

/// OpenSSL's private generator (CTR-DRBG of AES-256, seeded by the operating system). For any thread.
class SystemRandom : public RandomSource {
 public:
  void fill(std::span<std::byte> out) override;
};

/// Numbers from a source, which must outlive it. For one thread; forgets what it drew ahead when it goes.
class RandomBits {
 public:
  explicit RandomBits(RandomSource& source) : source_(source) {}
  ~RandomBits();
  RandomBits(const RandomBits&) = delete;
  RandomBits& operator=(const RandomBits&) = delete;

  std::uint64_t next() {
    if (used_ == buffer_.size()) refill();
    return buffer_[used_++];
  }
  /// Uniform in {0, ..., bound - 1}, exactly; `bound` is at least 1.
  std::uint64_t below(std::uint64_t bound);

 private:
  void refill();

  RandomSource& source_;
  std::array<std::uint64_t, 512>
      buffer_;  // 4 KiB, after which a call of the generator costs little more than its bytes
  std::size_t used_ = 512;
};

}  // namespace conclave

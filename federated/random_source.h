// The source of randomness for keys and privacy noise: a cryptographic generator, read in blocks. It is a
// parameter, so that a test can supply fixed bytes. (core/random.h is for randomness that must be
// reproducible: weights, dropout, the order of the data.)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace conclave {

class RandomSource {
 public:
  virtual ~RandomSource() = default;
  /// Throws Error if no randomness is available.
  virtual void fill(std::span<std::byte> out) = 0;
};

/// OpenSSL's private generator (CTR-DRBG of AES-256, seeded by the operating system). Safe on any thread.
class SystemRandom : public RandomSource {
 public:
  void fill(std::span<std::byte> out) override;
};

/// Numbers from a source, which must outlive this. For one thread. The destructor erases the buffered
/// numbers.
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
      buffer_;  // 4 KiB: a call of the generator then costs little more than its bytes
  std::size_t used_ = 512;
};

}  // namespace conclave

#include "federated/secure_aggregation/wide_aes.h"

#include <openssl/crypto.h>

#include <cstring>

#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>

// An attribute of functions, not a flag for the file: functions of the included headers must run on any
// processor.
#define CONCLAVE_WIDE_AES __attribute__((target("aes,vaes,avx512f,avx512bw,avx512vl")))

namespace conclave::secure_aggregation {
namespace {

// FIPS 197, section 5.2: the round key that follows `key`.
template <int constant>
CONCLAVE_WIDE_AES __m128i next_round_key(__m128i key) {
  const __m128i last = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(key, constant), 0xFF);
  key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
  key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
  return _mm_xor_si128(key, last);
}

constexpr std::size_t kVectors = 8;  // in flight; a round's latency is 3 or 4 of its issue intervals
constexpr __mmask16 kAll = 0xFFFF;   // intrinsics without a mask cause a false warning of GCC 12

}  // namespace

bool WideAes::available() {
  static const bool has = [] {
    unsigned eax, ebx, ecx = 0, edx;  // read the bit, because Clang 14 does not know "vaes"
    __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
    return (ecx >> 9 & 1) == 1 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  }();
  return has;
}

CONCLAVE_WIDE_AES WideAes::WideAes(const std::byte* key, const std::byte* nonce) {
  __m128i keys[11];
  keys[0] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(key));
  keys[1] = next_round_key<0x01>(keys[0]);
  keys[2] = next_round_key<0x02>(keys[1]);
  keys[3] = next_round_key<0x04>(keys[2]);
  keys[4] = next_round_key<0x08>(keys[3]);
  keys[5] = next_round_key<0x10>(keys[4]);
  keys[6] = next_round_key<0x20>(keys[5]);
  keys[7] = next_round_key<0x40>(keys[6]);
  keys[8] = next_round_key<0x80>(keys[7]);
  keys[9] = next_round_key<0x1B>(keys[8]);
  keys[10] = next_round_key<0x36>(keys[9]);
  std::memcpy(round_keys_, keys, sizeof round_keys_);
  OPENSSL_cleanse(keys, sizeof keys);
  std::memcpy(&nonce_, nonce, sizeof nonce_);
}

WideAes::~WideAes() { OPENSSL_cleanse(round_keys_, sizeof round_keys_); }

template <int use>
CONCLAVE_WIDE_AES void WideAes::run(std::uint64_t first, std::span<std::byte> out) const {
  __m512i keys[11];
  for (std::size_t i = 0; i < 11; ++i)
    keys[i] =
        _mm512_maskz_broadcast_i32x4(kAll, _mm_load_si128(reinterpret_cast<const __m128i*>(round_keys_[i])));
  // The upper half of each block is its counter, whose bytes are reversed.
  const __m512i big_endian =
      _mm512_maskz_broadcast_i32x4(kAll, _mm_set_epi64x(0x08090A0B0C0D0E0F, 0x0706050403020100));
  const auto nonce = static_cast<long long>(nonce_);
  const auto at = static_cast<long long>(first);
  __m512i counter = _mm512_set_epi64(at + 3, nonce, at + 2, nonce, at + 1, nonce, at, nonce);
  const __m512i four = _mm512_set_epi64(4, 0, 4, 0, 4, 0, 4, 0);
  alignas(64) std::byte last[64 * kVectors];
  for (std::size_t done = 0; done < out.size(); done += sizeof last) {
    __m512i block[kVectors];
    for (__m512i& b : block) {
      b = _mm512_xor_si512(_mm512_shuffle_epi8(counter, big_endian), keys[0]);
      counter = _mm512_add_epi64(counter, four);
    }
    for (int round = 1; round < 10; ++round)
      for (__m512i& b : block) b = _mm512_aesenc_epi128(b, keys[round]);
    const std::size_t rest = out.size() - done;
    const bool whole = rest >= sizeof last;
    if (!whole) std::memcpy(last, out.data() + done, rest);
    std::byte* to = whole ? out.data() + done : last;
    for (std::size_t v = 0; v < kVectors; ++v, to += 64) {
      __m512i bytes = _mm512_aesenclast_epi128(block[v], keys[10]);
      if constexpr (use != 0) {
        const __m512i words = _mm512_loadu_si512(to);
        if constexpr (use == 2) bytes = _mm512_add_epi16(words, bytes);
        if constexpr (use == -2) bytes = _mm512_sub_epi16(words, bytes);
        if constexpr (use == 4) bytes = _mm512_add_epi32(words, bytes);
        if constexpr (use == -4) bytes = _mm512_sub_epi32(words, bytes);
        if constexpr (use == 8) bytes = _mm512_add_epi64(words, bytes);
        if constexpr (use == -8) bytes = _mm512_sub_epi64(words, bytes);
      }
      _mm512_storeu_si512(to, bytes);
    }
    if (!whole) std::memcpy(out.data() + done, last, rest);
  }
}

void WideAes::run(std::uint64_t first, std::span<std::byte> out, int use) const {
  switch (use) {
    case 2:
      return run<2>(first, out);
    case -2:
      return run<-2>(first, out);
    case 4:
      return run<4>(first, out);
    case -4:
      return run<-4>(first, out);
    case 8:
      return run<8>(first, out);
    case -8:
      return run<-8>(first, out);
    default:
      return run<0>(first, out);
  }
}

}  // namespace conclave::secure_aggregation

#else

namespace conclave::secure_aggregation {

bool WideAes::available() { return false; }
WideAes::WideAes(const std::byte*, const std::byte*) {}
WideAes::~WideAes() = default;
void WideAes::run(std::uint64_t, std::span<std::byte>, int) const {}

}  // namespace conclave::secure_aggregation

#endif

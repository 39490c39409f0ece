// CRC-32C (Castagnoli polynomial 0x1EDC6F41, reflected, RFC 3720 appendix B.4), and the masked form that
// TFRecord files use: TensorFlow rotates and offsets the CRC because a CRC over data that contains CRCs is
// weak.
#pragma once

#include <cstdint>
#include <string_view>

namespace conclave {

std::uint32_t crc32c(std::string_view bytes);

inline std::uint32_t masked_crc32c(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

}  // namespace conclave

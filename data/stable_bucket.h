// Assigns examples to splits by a hash of their names, which is the same on every machine.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <string_view>

namespace conclave {

/// crc32(name) % buckets.
inline std::uint32_t bucket_of(std::string_view name, std::uint32_t buckets) {
  const auto* bytes = reinterpret_cast<const Bytef*>(name.data());
  return static_cast<std::uint32_t>(crc32_z(0, bytes, name.size())) % buckets;
}

}  // namespace conclave

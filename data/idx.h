// idx files, the format of MNIST and of the data sets modelled on it: two bytes of 0, the type, the number of
// extents, each extent as 4 bytes (most significant first), and the values.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace conclave {

struct IdxArray {
  std::vector<std::int64_t> extents;
  std::vector<std::uint8_t> values;  ///< the last extent varies fastest
};

/// Parses `bytes`, an idx file, plain or compressed by gzip, with 1 to 3 extents and unsigned bytes as
/// values. The size of the file bounds the memory allocated, whatever extents the header claims. Throws Error
/// with `name` and the position for any other type or number of extents, for missing or surplus values, and
/// for damaged gzip data.
IdxArray parse_idx(std::string_view bytes, std::string_view name);

}  // namespace conclave

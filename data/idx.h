// idx files, the format of MNIST and those made after it: the bytes 0, 0, the type and the number of extents,
// each extent as 4 bytes (most significant first), and the values.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace conclave {

struct IdxArray {
  std::vector<std::int64_t> extents;
  std::vector<std::uint8_t> values;  ///< the last extent varies fastest
};

/// The array in `bytes`, an idx file or one packed by gzip: 1 to 3 extents, of unsigned bytes. The file's
/// size bounds the memory that is taken, whatever its extents say. Throws Error with `name` and the place for
/// anything else, values missing or left over, and what gzip finds damaged.
IdxArray parse_idx(std::string_view bytes, std::string_view name);

}  // namespace conclave

// idx files for tests, compressed by gzip as in the data sets.
#pragma once

#include <string>
#include <vector>

#include "tests/data/gzip.h"

namespace conclave {

/// An idx file of these extents, each below 256.
inline std::string idx_file(const std::vector<int>& extents, const std::string& values) {
  std::string bytes{0, 0, 8, static_cast<char>(extents.size())};
  for (const int extent : extents) bytes += std::string(3, '\0') + static_cast<char>(extent);
  return gzip(bytes + values);
}

}  // namespace conclave

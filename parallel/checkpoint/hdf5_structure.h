// Lays out an HDF5 file: its groups, attributes, small values, and the place of every tensor. The tensors'
// values are written later, by the ranks that hold them.
#pragma once

#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "parallel/checkpoint/hdf5_file.h"

namespace conclave {

/// Adds the objects that checkpoints and exports consist of. Names are slash-separated paths; intermediate
/// groups are created.
class Hdf5Structure {
 public:
  explicit Hdf5Structure(hid_t file) : file_(file) {}

  /// Adds an attribute of the root group.
  void attribute(const char* name, const std::string& text) { write_attribute(file_, name, text); }
  void attribute(const char* name, std::int64_t value) { write_attribute(file_, name, value); }
  /// Adds a contiguous dataset with space reserved in the file and no values written. Its attributes are
  /// "dtype" and "xxh3_128" (u8 [checksums, 16]: one for the whole, or one per row of dimension 0).
  Hdf5Id tensor(const std::string& name, const Shape& shape, DType dtype,
                std::span<const Xxh3Digest> checksums);
  void text(const std::string& name, const std::string& text);    ///< scalar UTF-8 string, checksummed
  void bytes(const std::string& name, const std::string& bytes);  ///< u8 [size], checksummed
  /// UTF-8 strings [texts], all padded to the length of the longest.
  void texts(const std::string& name, const std::vector<std::string>& texts);
  void floats(const std::string& name, const std::vector<float>& values);  ///< f32 [values], checksummed

 private:
  Hdf5Id dataset(const std::string& name, hid_t type, hid_t space);

  hid_t file_;
  std::set<std::string> groups_;
};

/// Creates or overwrites `path` with what `describe` adds to the structure, and reserves disk space for all
/// of it. The file has no time stamps and a fixed format (HDF5 1.8's, whose metadata have checksums), so
/// equal contents give equal bytes. Throws Error, also if the disk is full; the caller then removes the file.
/// The caller holds an Hdf5Lock.
void lay_out_hdf5(const std::string& path, const std::function<void(Hdf5Structure&)>& describe);

}  // namespace conclave

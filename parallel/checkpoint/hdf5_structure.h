// Lays out an HDF5 file: its groups, attributes, small values, and the place of every tensor, whose values
// are written later by whoever has them.
#pragma once

#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "parallel/checkpoint/hdf5_file.h"

namespace conclave {

/// What checkpoints and exports put into a file. Names are slash-separated paths; groups on the way are made.
class Hdf5Structure {
 public:
  explicit Hdf5Structure(hid_t file) : file_(file) {}

  /// Of the root.
  void attribute(const char* name, const std::string& text) { write_attribute(file_, name, text); }
  void attribute(const char* name, std::int64_t value) { write_attribute(file_, name, value); }
  /// Contiguous, with its place in the file taken and nothing written; attributes "dtype" and "xxh3_128"
  /// (u8 [checksums, 16]: one for the whole, or one per row of dimension 0).
  Hdf5Id tensor(const std::string& name, const Shape& shape, DType dtype,
                std::span<const Xxh3Digest> checksums);
  void text(const std::string& name, const std::string& text);    ///< scalar UTF-8 string, checksummed
  void bytes(const std::string& name, const std::string& bytes);  ///< u8 [size], checksummed
  /// UTF-8 strings [texts], all as long as the longest.
  void texts(const std::string& name, const std::vector<std::string>& texts);
  void floats(const std::string& name, const std::vector<float>& values);  ///< f32 [values], checksummed

 private:
  Hdf5Id dataset(const std::string& name, hid_t type, hid_t space);

  hid_t file_;
  std::set<std::string> groups_;
};

/// Makes `path` anew with what `describe` puts into the structure, and takes room on disk for all of it. With
/// no times in it and in one format (HDF5 1.8's, whose metadata is checksummed): equal contents are equal
/// bytes. Throws Error, also where the disk is full; the file
/// is then to be removed. The caller holds an Hdf5Lock.
void lay_out_hdf5(const std::string& path, const std::function<void(Hdf5Structure&)>& describe);

}  // namespace conclave

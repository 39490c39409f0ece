// HDF5's C interface with handles that close themselves and errors that include HDF5's reasons. The HDF5
// library used here is not thread-safe: every caller holds an Hdf5Lock, a lock of the whole process.
#pragma once

#define OMPI_SKIP_MPICXX 1
#include <hdf5.h>

#include <array>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "core/xxh3.h"

namespace conclave {

/// A recursive lock for the one thread that may call HDF5. Also turns off HDF5's error output on stderr.
/// Declare it before any handle.
class Hdf5Lock {
 public:
  Hdf5Lock();

 private:
  std::lock_guard<std::recursive_mutex> guard_;
};

/// If result < 0, throws Error "`doing`: reason" with the innermost reasons on HDF5's error stack.
void check_hdf5(herr_t result, const std::string& doing);

/// An HDF5 id that is closed with the object.
class Hdf5Id {
 public:
  using Close = herr_t (*)(hid_t);
  /// Takes ownership of `id`; throws Error as check_hdf5 does if `id` is negative.
  Hdf5Id(hid_t id, Close close, const std::string& doing);
  Hdf5Id(Hdf5Id&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  ~Hdf5Id();
  Hdf5Id& operator=(Hdf5Id&&) = delete;

  operator hid_t() const { return id_; }  // NOLINT: stands for the id in every HDF5 call
  /// Closes now; throws Error if HDF5 reports a failure. The id counts as closed either way.
  void close(const std::string& doing);

 private:
  hid_t id_;
  Close close_;
};

hid_t hdf5_type(DType dtype);  ///< as stored: little-endian; bf16 as unsigned 16-bit integers

Hdf5Id hdf5_space(std::span<const Index> extents);  ///< scalar where there are none
Hdf5Id hdf5_string(std::size_t length);             ///< UTF-8 of a fixed length in bytes, padded with zeros

/// Opens a file on this rank alone, for reading, or for writing rows of existing datasets. Writes are
/// unbuffered, so a write that fails does so at the call and not when the file is closed.
Hdf5Id open_hdf5(const std::string& path, bool writable = false);

void write_attribute(hid_t object, const char* name, const std::string& text);
void write_attribute(hid_t object, const char* name, std::int64_t value);
std::string read_text_attribute(hid_t object, const char* name);
std::int64_t read_integer_attribute(hid_t object, const char* name);
void write_checksums(hid_t object, std::span<const Xxh3Digest> checksums);
std::vector<Xxh3Digest> read_checksums(hid_t object);

/// Transfers rows [first_row, first_row + rows) of a dataset of `shape`; scalars have one row. `transfer` is
/// H5P_DEFAULT or a data transfer property list.
void write_rows(hid_t dataset, const Shape& shape, DType dtype, Index first_row, Index rows,
                const void* values, hid_t transfer = H5P_DEFAULT);
void read_rows(hid_t dataset, const Shape& shape, DType dtype, Index first_row, Index rows, void* values);

}  // namespace conclave

// The fuzz target of the checkpoint reader, with which a site opens the file that a coordinator sent.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/durable_file.h"
#include "parallel/checkpoint/checkpoint_reader.h"
#include "parallel/checkpoint/hdf5_structure.h"
#include "tests/data/temporary_directory.h"

namespace conclave {

/// Makes an HDF5 file as the bytes say, and reads it. The file is a checkpoint with one tensor, except that
/// the bytes may give each attribute and each dataset another type, another shape and other values. (Bytes as
/// a file would mostly test HDF5, which refuses metadata with a wrong checksum.)
class CheckpointTrial {
 public:
  explicit CheckpointTrial(std::string path) : path_(std::move(path)) {}

  void run(std::string_view bytes) {
    rest_ = bytes;
    try {
      make();
    } catch (const Error&) {  // HDF5 makes no such file
      return;
    }
    try {
      CheckpointReader(path_).verify();
    } catch (const Error&) {
    }
  }

 private:
  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    const auto value = static_cast<std::uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return value;
  }

  Hdf5Id type(std::uint8_t number) {
    const auto copy = [](hid_t of) { return Hdf5Id(H5Tcopy(of), H5Tclose, "type"); };
    switch (number % 8) {
      case 0:
        return hdf5_string(number * 64u);
      case 1:
        return copy(H5T_STD_U8LE);
      case 2:
        return copy(H5T_STD_I64LE);
      case 3:
        return copy(H5T_IEEE_F32LE);
      case 4: {
        const Hdf5Id text = copy(H5T_C_S1);
        check_hdf5(H5Tset_size(text, H5T_VARIABLE), "type");
        return copy(text);
      }
      case 5:
        return {H5Tvlen_create(H5T_STD_U8LE), H5Tclose, "type"};
      case 6:
        return {H5Tcreate(H5T_OPAQUE, 1u + number), H5Tclose, "type"};
      default: {
        const hsize_t extent = 1u + number / 8;
        return {H5Tarray_create2(H5T_STD_I32LE, 1, &extent), H5Tclose, "type"};
      }
    }
  }

  // Extents of 0 to 15, or of 2^4 to 2^63, or one less.
  Hdf5Id space(std::uint8_t number) {
    if (number % 6 == 5) return {H5Screate(H5S_NULL), H5Sclose, "space"};
    std::array<hsize_t, 4> extents{};
    for (hsize_t& extent : extents) {
      const std::uint8_t size = byte();
      extent = size < 16 ? size : (hsize_t{1} << (4 + size % 60)) - size / 128;
    }
    return {number % 6 == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(number % 6, extents.data(), nullptr),
            H5Sclose, "space"};
  }

  // Bytes for all elements, if these are few; 0 for types with elements elsewhere, which are not written.
  std::string values(hid_t type, hid_t space) {
    const hssize_t count = H5Sget_simple_extent_npoints(space);
    const H5T_class_t kind = H5Tget_class(type);
    if (count < 0 || count > 1000 || kind == H5T_VLEN || H5Tis_variable_str(type) != 0) return "";
    std::string values(static_cast<std::size_t>(count) * H5Tget_size(type), '\0');
    for (char& value : values) {
      if (rest_.empty()) break;
      value = static_cast<char>(byte());
    }
    return values;
  }

  // Whether the next attribute or dataset is as the bytes say.
  bool changes() { return byte() % 4 == 1; }

  void attribute(hid_t object, const char* name) {
    const Hdf5Id type = this->type(byte()), space = this->space(byte());
    // HDF5 takes memory for all of it, as it computes the size: modulo 2^64.
    const std::uint64_t count = static_cast<std::uint64_t>(H5Sget_simple_extent_npoints(space));
    require(count * H5Tget_size(type) <= 1 << 20, "too large");
    const Hdf5Id made(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, name);
    const std::string values = this->values(type, space);
    if (!values.empty()) check_hdf5(H5Awrite(made, type, values.data()), name);
  }

  void state(hid_t file, const char* name) {
    const bool changed = changes();
    const Hdf5Id type = changed ? this->type(byte()) : hdf5_string(3);
    const Hdf5Id space = changed ? this->space(byte()) : hdf5_space({});
    const Hdf5Id made = dataset(file, name, type, space);
    const std::string values = changed ? this->values(type, space) : "abc";
    if (!values.empty()) check_hdf5(H5Dwrite(made, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), name);
    const Xxh3Digest checksum = xxh3_128(values.data(), values.size());
    changes() ? attribute(made, "xxh3_128") : write_checksums(made, {&checksum, 1});
  }

  Hdf5Id dataset(hid_t file, const char* name, hid_t type, hid_t space) {
    const hssize_t count = H5Sget_simple_extent_npoints(space);
    const Hdf5Id creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, name);
    if (count <= 1000)  // no disk space for huge ones
      check_hdf5(H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY), name);
    return {H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose, name};
  }

  void make() {
    const Hdf5Lock lock;
    const Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "file");
    check_hdf5(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), "file");
    check_hdf5(H5Pset_file_locking(access, false, true), "file");
    const Hdf5Id file(H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access), H5Fclose, "file");
    changes() ? attribute(file, "format") : write_attribute(file, "format", "conclave-checkpoint");
    changes() ? attribute(file, "schema_version")
              : write_attribute(file, "schema_version", std::int64_t{kCheckpointSchema});
    changes() ? attribute(file, "step") : write_attribute(file, "step", std::int64_t{7});
    const Hdf5Id group(H5Gcreate2(file, "state", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose, "group");
    for (const char* name : {"state/recipe", "state/metadata", "state/tokenizer"}) state(file, name);
    const bool changed = changes();
    const Hdf5Id type = changed ? this->type(byte()) : Hdf5Id(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, "type");
    const Hdf5Id space = changed ? this->space(byte()) : hdf5_space(std::array<Index, 2>{2, 3});
    const Hdf5Id tensor = dataset(file, "weight", type, space);
    const std::string values = this->values(type, space);
    if (!values.empty()) check_hdf5(H5Dwrite(tensor, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), "");
    changes() ? attribute(tensor, "dtype") : write_attribute(tensor, "dtype", "f32");
    const Xxh3Digest checksum = xxh3_128(values.data(), values.size());
    changes() ? attribute(tensor, "xxh3_128") : write_checksums(tensor, {&checksum, 1});
  }

  const std::string path_;
  std::string_view rest_;
};

inline void fuzz_checkpoint(std::string_view bytes) {
  static const TemporaryDirectory folder;
  static CheckpointTrial trial(folder.path() + "/step-00000007.h5");
  trial.run(bytes);
}

}  // namespace conclave

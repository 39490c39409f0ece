// An HDF5 file in memory. HDF5 cannot release a file whose metadata it cannot write: closing it fails, and
// the program crashes later, when the library closes the file again at exit. So a file's layout is created in
// memory, where writing cannot fail, and then copied to disk by system calls, which report their errors. The
// image is sparse: it holds what HDF5 wrote, but not the places of tensors that are written later. (HDF5's
// own "core" driver would hold these, too.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "core/durable_file.h"
#include "parallel/checkpoint/hdf5_file.h"

namespace conclave {

class Hdf5Image {
 public:
  Hdf5Image();
  Hdf5Image(const Hdf5Image&) = delete;
  Hdf5Image& operator=(const Hdf5Image&) = delete;

  /// Directs files created with `access` (a file access property list) to this image. One file at a time.
  void receive_from(hid_t access);
  /// Sets the size of `disk`, reserves space for all of it including the holes, and writes the contents.
  /// Throws Error.
  void copy_to(FileDescriptor& disk) const;

 private:
  struct Driver;  // the functions that HDF5 calls
  struct Opened {
    H5FD_t handle{};  // first: HDF5 hands out its address
    Hdf5Image* image = nullptr;
  };
  using Page = std::vector<std::byte>;

  void read(std::uint64_t offset, std::byte* data, std::size_t size) const;
  void write(std::uint64_t offset, const std::byte* data, std::size_t size);

  Hdf5Id driver_;
  Opened opened_;
  haddr_t allocated_ = 0;
  std::uint64_t size_ = 0;
  std::map<std::uint64_t, Page> pages_;  // by page number
};

}  // namespace conclave

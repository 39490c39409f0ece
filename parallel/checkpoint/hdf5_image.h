// A file of HDF5's in memory. HDF5 cannot let go of a file whose metadata it cannot write: closing it fails,
// and the program crashes later, when the library closes it once more on exit. So the layout of a file is
// made here, where writing cannot fail, and then copied to the disk by system calls that can. The image is
// sparse: it holds what HDF5 wrote and not the places of tensors still to come. (HDF5's own "core" driver
// would hold them, too.)
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

  /// Files created with `access` (a file access property list) are this image. One at a time.
  void receive_from(hid_t access);
  /// Gives `disk` the size and the contents of the image and takes room for the holes; throws Error.
  void copy_to(FileDescriptor& disk) const;

 private:
  struct Driver;  // HDF5's calls
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
  std::map<std::uint64_t, Page> pages_;  // by number
};

}  // namespace conclave

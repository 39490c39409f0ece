// A virtual file driver of HDF5 (H5FDpublic.h). Callbacks not set here do not apply to files in memory.
#include "parallel/checkpoint/hdf5_image.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>

namespace conclave {
namespace {

constexpr std::size_t kPage = 64 << 10;

}  // namespace

struct Hdf5Image::Driver {
  struct Info {
    Hdf5Image* image;
  };

  static Hdf5Image& of(const H5FD_t* handle) { return *reinterpret_cast<const Opened*>(handle)->image; }

  static H5FD_t* open(const char*, unsigned, hid_t access, haddr_t) {
    const auto* info = static_cast<const Info*>(H5Pget_driver_info(access));
    return info == nullptr ? nullptr : &info->image->opened_.handle;
  }
  static herr_t close(H5FD_t*) { return 0; }
  static herr_t query(const H5FD_t*, unsigned long* flags) {
    if (flags != nullptr) *flags = H5FD_FEAT_AGGREGATE_METADATA;
    return 0;
  }
  static haddr_t get_allocated(const H5FD_t* handle, H5FD_mem_t) { return of(handle).allocated_; }
  static herr_t set_allocated(H5FD_t* handle, H5FD_mem_t, haddr_t end) {
    of(handle).allocated_ = end;
    return 0;
  }
  static haddr_t get_size(const H5FD_t* handle, H5FD_mem_t) { return of(handle).size_; }
  static herr_t truncate(H5FD_t* handle, hid_t, hbool_t) {
    of(handle).size_ = of(handle).allocated_;
    return 0;
  }
  static herr_t read(H5FD_t* handle, H5FD_mem_t, hid_t, haddr_t offset, size_t size, void* data) {
    of(handle).read(offset, static_cast<std::byte*>(data), size);
    return 0;
  }
  static herr_t write(H5FD_t* handle, H5FD_mem_t, hid_t, haddr_t offset, size_t size, const void* data) {
    try {
      of(handle).write(offset, static_cast<const std::byte*>(data), size);
      return 0;
    } catch (const std::exception&) {  // out of memory; exceptions must not pass through HDF5
      return -1;
    }
  }

  static H5FD_class_t description() {
    H5FD_class_t driver{};
    driver.name = "conclave image";
    driver.maxaddr = std::numeric_limits<std::int64_t>::max();
    driver.fc_degree = H5F_CLOSE_WEAK;
    driver.fapl_size = sizeof(Info);
    driver.open = open;
    driver.close = close;
    driver.query = query;
    driver.get_eoa = get_allocated;
    driver.set_eoa = set_allocated;
    driver.get_eof = get_size;
    driver.read = read;
    driver.write = write;
    driver.truncate = truncate;
    constexpr H5FD_mem_t kinds[] = H5FD_FLMAP_DICHOTOMY;
    std::copy(std::begin(kinds), std::end(kinds), driver.fl_map);
    return driver;
  }
};

Hdf5Image::Hdf5Image()
    : driver_(
          [] {
            static const H5FD_class_t driver = Driver::description();
            return H5FDregister(&driver);
          }(),
          H5FDunregister, "hdf5 image") {
  opened_.image = this;
}

void Hdf5Image::receive_from(hid_t access) {
  const Driver::Info info{this};
  check_hdf5(H5Pset_driver(access, driver_, &info), "hdf5 image");
}

void Hdf5Image::read(std::uint64_t offset, std::byte* data, std::size_t size) const {
  while (size > 0) {
    const std::size_t within = offset % kPage, piece = std::min(size, kPage - within);
    const auto page = pages_.find(offset / kPage);
    if (page == pages_.end())
      std::memset(data, 0, piece);
    else
      std::memcpy(data, page->second.data() + within, piece);
    data += piece;
    offset += piece;
    size -= piece;
  }
}

void Hdf5Image::write(std::uint64_t offset, const std::byte* data, std::size_t size) {
  size_ = std::max(size_, offset + size);
  while (size > 0) {
    const std::size_t within = offset % kPage, piece = std::min(size, kPage - within);
    Page& page = pages_[offset / kPage];
    page.resize(kPage);
    std::memcpy(page.data() + within, data, piece);
    data += piece;
    offset += piece;
    size -= piece;
  }
}

void Hdf5Image::copy_to(FileDescriptor& disk) const {
  disk.resize(size_);
  disk.reserve(size_);
  for (const auto& [number, page] : pages_) {
    const std::uint64_t offset = number * kPage;
    if (offset < size_) disk.write_at(page.data(), std::min<std::uint64_t>(kPage, size_ - offset), offset);
  }
}

}  // namespace conclave

// For benchmarks: an update goes from a site to a coordinator on this machine, over mutual TLS; and as many
// bytes go the same way by a bare gRPC stream, of which nothing is checked, kept or read from a file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

namespace conclave {

class UploadTrial {
 public:
  /// Takes 8 * `elements` bytes of `directory`, and as much of the page cache.
  UploadTrial(const std::filesystem::path& directory, std::uint64_t elements);
  ~UploadTrial();

  /// Site::deliver() into a RoundBoard, until it counts. A round each.
  void deliver();
  void stream();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave

// For benchmarks and tests: an update goes from a site to a coordinator on this machine, over mutual TLS; and
// as many bytes go the same way by a bare gRPC stream, of which nothing is checked, kept or read from a file.
// Another site may hinder it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace conclave {

class UploadTrial {
 public:
  /// Takes 8 * `elements` bytes of `directory`, and as much of the page cache.
  /// `silence`: how long a call waits for the next chunk.
  UploadTrial(const std::filesystem::path& directory, std::uint64_t elements,
              std::chrono::milliseconds silence = std::chrono::minutes(2));
  ~UploadTrial();

  /// Site::deliver() into a RoundBoard, until it counts. A round each, of which the update is kept until
  /// forget(), or the next.
  void deliver();
  void forget();
  void stream();

  /// Another site, which is let in, connects so many times, and begins so many uploads by each connection,
  /// with which it does not go on.
  void hinder(std::size_t connections, std::size_t uploads);
  /// That one is let in no longer.
  void turn_out();
  /// Waits until its uploads are over: how many the coordinator refused, there being too many, or ended.
  struct Ended {
    std::size_t refused = 0, cut = 0;
  };
  Ended wait_for_end();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave

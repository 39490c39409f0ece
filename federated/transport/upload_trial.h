// For benchmarks and tests: an update is sent from a site to a coordinator on this machine, over mutual TLS.
// For comparison, as many bytes are sent by a bare gRPC stream, without checks, and without files at either
// end. Another site may interfere.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

namespace conclave {

class UploadTrial {
 public:
  /// Takes 8 * `elements` bytes on disk in `directory`, and as much of the page cache.
  /// `silence`: how long a call may wait for the next chunk.
  UploadTrial(const std::filesystem::path& directory, std::uint64_t elements,
              std::chrono::milliseconds silence = std::chrono::minutes(2));
  ~UploadTrial();

  /// Closes the round, retires its update, and opens another one. The first is open already.
  void open_round();
  /// Site::deliver() into a RoundBoard, until the round's update counts.
  void deliver();
  void stream();
  /// Delivers an update as a single call, and calls meanwhile() when the coordinator has all but its last
  /// chunk. Returns why the coordinator refused it; "" if it did not.
  std::string deliver(const std::function<void()>& meanwhile);

  /// Another accepted site opens `connections` connections, and begins `uploads` uploads on each, which it
  /// does not continue. Returns when the coordinator serves as many of them as it does at a time.
  void hinder(std::size_t connections, std::size_t uploads);
  /// That site's certificate is no longer accepted.
  void revoke();
  /// That site makes one more call, which is invalid. Returns why it was refused; throws Error for any other
  /// reason.
  enum class Refusal : std::uint8_t { too_many, not_let_in };
  Refusal call_once();
  /// Number of lines that the coordinator logged.
  std::size_t said() const;
  /// Waits until the coordinator has looked once more, from the beginning, at who is accepted.
  void wait_for_look();
  /// Waits until that site's uploads are over. Returns how many the coordinator refused, because there were
  /// too many, and how many it cancelled.
  struct Ended {
    std::size_t refused = 0, cut = 0;
  };
  Ended wait_for_end();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave

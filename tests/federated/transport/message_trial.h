// For the fuzzer and for tests: arbitrary bytes in place of messages. They are given to the code that serves
// sites' calls at the coordinator, and to the code that processes the coordinator's answers at a site,
// without a connection.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace conclave {

class MessageTrial {
 public:
  /// Works in `directory`, all of which it may overwrite.
  explicit MessageTrial(std::filesystem::path directory);
  ~MessageTrial();

  /// The first byte selects what the messages are for. The messages follow, each after its length in two
  /// bytes, little-endian. A call that throws conclave::Error is as it should be. Throws std::logic_error if
  /// an update counts that should not, or if a message is read or sent as another one. Returns the gRPC
  /// status codes by which a site's calls ended.
  std::vector<int> run(std::string_view input);
  /// Inputs to begin with, by name. Most of them are valid.
  static std::map<std::string, std::string> examples();
  /// Inputs in which a site makes one mistake, by what it is. Its first call must end by kInvalidArgument.
  static std::map<std::string, std::string> mistakes();
  /// A download from behind the model's end, as of a site that has begun another model.
  static std::string download_beyond_end();
  /// Cuts the coordinator's model file short, as another program might.
  void truncate_model();
  static const int kInvalidArgument, kAborted, kInternal;  ///< gRPC's status codes

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave

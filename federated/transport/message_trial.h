// Bytes in the place of messages, for the fuzzer and for tests: given to what the coordinator does with
// sites' calls, and to what a site does with the coordinator's answers, with no connection between.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace conclave {

class MessageTrial {
 public:
  /// Works in `directory`, which is then its own.
  explicit MessageTrial(std::filesystem::path directory);
  ~MessageTrial();

  /// The first byte says what of all this the messages are for; they follow, each behind its length in two
  /// bytes, the lower first. Calls that throw conclave::Error are as they should be. Throws std::logic_error
  /// where an update counts that should not.
  void run(std::string_view input);
  /// Inputs to begin with, by what they are of; in most all goes well.
  static std::map<std::string, std::string> examples();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave

// A site's update that waits to be delivered, with all that goes with it. Whoever is killed before that sends
// the same once more, and need neither train nor, where it has noise, tell another.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "federated/file_transfer.h"

namespace conclave {

struct WaitingUpdate {
  std::int64_t round = 0;
  FileDigest base;  ///< the model that was trained
  std::filesystem::path file;
  FileDigest digest;  ///< of that
  double examples = 0;
  std::vector<double> tokens;
  std::map<std::string, double> metrics;
  std::int64_t turn = 0;   ///< the update's number
  std::string terms = {};  ///< by which it was made: under others it is not to be delivered
  std::string spend = {};  ///< its name in the privacy ledger; "": it spends nothing, or anew when it is sent

  /// Into the file's folder, durably.
  void save() const;
  /// The one in `directory`, if it has that number, was made by these terms, is of that model (any, where
  /// nothing is said), and whole.
  static std::optional<WaitingUpdate> find(const std::filesystem::path& directory, std::int64_t turn,
                                           const std::string& terms, const std::optional<FileDigest>& base);
  /// There is no use in the one in `directory` any more.
  static void forget(const std::filesystem::path& directory);
};

}  // namespace conclave

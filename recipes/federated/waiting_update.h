// A site's update that waits to be delivered, with all that goes with it. A site that is killed before the
// delivery sends the same update again. So it need not train again, and releases no second update with other
// noise.
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
  FileDigest base;  ///< digest of the model that was trained
  std::filesystem::path file;
  FileDigest digest;  ///< of `file`
  double examples = 0;
  std::vector<double> tokens;
  std::map<std::string, double> metrics;
  std::int64_t turn = 0;   ///< the update's number
  std::string terms = {};  ///< under which it was made; it must not be delivered under others
  std::string spend = {};  ///< its name in the privacy ledger; "" if it spends nothing, or if each delivery
                           ///< spends anew

  /// Writes it into the file's folder, durably.
  void save() const;
  /// The update in `directory`, if it has this number, was made under these terms and from this model (any,
  /// if none is given), and is complete.
  static std::optional<WaitingUpdate> find(const std::filesystem::path& directory, std::int64_t turn,
                                           const std::string& terms, const std::optional<FileDigest>& base);
  /// Removes the note of the update in `directory`, which is then not found again.
  static void forget(const std::filesystem::path& directory);
};

}  // namespace conclave

// For tests: a site that takes part in a sum, and a coordinator and two other sites without a network, which
// are honest. Shows what the site has on disk when the coordinator gets its messages.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "federated/transport/site.h"

namespace conclave {

class SumTrial {
 public:
  static constexpr std::int64_t kAttempt = 7, kElements = 3;

  /// What the site had done when a message of it arrived.
  struct Done {
    std::optional<std::int64_t> sent = {}, unmasked = {};  ///< attempts, by its record on disk
    int spends = 0;
    bool operator==(const Done&) const = default;
  };

  /// The site's directory is `directory`/site. With `damaged`, it can use no share that others deal.
  SumTrial(const std::filesystem::path& directory, bool damaged);
  ~SumTrial();

  /// The site delivers zeros for the only attempt at the sum of round 0. Returns and throws as
  /// Site::deliver().
  bool deliver();

  const std::optional<Done>& at_upload() const;  ///< when the masked update was offered; nothing if never
  const std::optional<Done>& at_unmask() const;  ///< when the shares to unmask with came
  const std::vector<std::int64_t>& sum() const;  ///< empty if there is none

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave

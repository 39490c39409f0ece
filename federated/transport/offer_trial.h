// For tests: a site, and a coordinator without a network that offers it models, and answers at once whatever
// it is asked; for every update it is too late.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "federated/transport/site.h"

namespace conclave {

class OfferTrial {
 public:
  /// The site's is `directory`/site.
  explicit OfferTrial(const std::filesystem::path& directory);
  ~OfferTrial();

  /// Rounds that the coordinator has for the site, one after another: each has the text as its model, which
  /// is said to have so many bytes more.
  void offer(std::int64_t round, const std::string& model, std::uint64_t more_bytes = 0);
  /// As the round is over, the next model does not come.
  void end_download(const std::string& reason);
  /// What sites exchange for a sum is so many times not there yet; then there is no sum.
  void answer_early(int times);
  Site& site();
  /// Models that the site began to fetch.
  int downloads() const;
  void at_download(std::function<void()> action);
  const std::vector<std::string>& said() const;  ///< by the site

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave

// For tests: a site, and a coordinator without a network. The coordinator offers models and answers every
// call at once; for every update, it answers that the round is over.
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
  /// The site's directory is `directory`/site.
  explicit OfferTrial(const std::filesystem::path& directory);
  ~OfferTrial();

  /// Adds a round that the coordinator will offer to the site, after those added before. Its model is the
  /// text `model`, and the size that is announced is larger by `more_bytes`.
  void offer(std::int64_t round, const std::string& model, std::uint64_t more_bytes = 0);
  /// The next download ends as if the round were over.
  void end_download(const std::string& reason);
  /// The next `times` messages of secure aggregation are answered NOT_YET, those after them with a refusal.
  void answer_early(int times);
  Site& site();
  /// Downloads of models that the site began.
  int downloads() const;
  void at_download(std::function<void()> action);
  const std::vector<std::string>& said() const;  ///< by the site

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave

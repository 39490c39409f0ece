// Trains a federation's model on a site's data, round by round. Rank 0 talks to the coordinator, all ranks
// train.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "federated/identity.h"
#include "federated/transport/site.h"
#include "parallel/checkpoint/checkpoint.h"
#include "recipes/federated/accounted_delivery.h"
#include "recipes/federated/agreed_terms.h"
#include "recipes/federated/site_model.h"
#include "recipes/federated/waiting_update.h"
#include "recipes/settings/federation.h"
#include "recipes/training/trainer.h"

namespace conclave {

/// What a job needs of its process.
struct SiteJobEnvironment {
  std::string name;  ///< of the settings' file, for messages
  TrainerEnvironment trainer;
  /// Collective. Prepares the ranks for the recipe, and divides them as it says.
  std::function<ProcessGrid(Recipe&, std::unique_ptr<Communicator>)> divide;
  std::function<void(const std::string&)> say;  ///< called on rank 0
  // Rank 0's, null on others; both must outlive the job.
  SiteTransport* site = nullptr;
  const Kit* kit = nullptr;
};

/// All members are collective, except those with the comment "for rank 0".
class SiteJob {
 public:
  /// `world` has all ranks. On rank 0, the caller holds a DirectoryLock of settings.site.directory.
  SiteJob(SiteSettings settings, std::unique_ptr<Communicator> world, SiteJobEnvironment environment);

  /// Returns true when the last round is over, false if interrupted. Throws Error if the coordinator asks for
  /// what this site's settings do not allow, changes its terms, or refuses this site.
  bool run();

 private:
  struct Work;

  std::optional<Work> next();
  void check_terms(const Work& work);
  void check_recipe_of(const CheckpointReader& model);
  void begin(const Work& work, const CheckpointReader& model);
  void save_with_own_part(const Work& work, const CheckpointReader& model);
  void check_elements(const Work& work) const;
  std::string made_by(const Work& work) const;
  bool deliver_waiting(const Work& work);
  void deliver(const WaitingUpdate& update, const Work& work);
  void validate(const std::string& which, std::map<std::string, double>& metrics);
  bool train(const Work& work, const CheckpointReader& model);

  const SiteJobEnvironment environment_;
  std::unique_ptr<Communicator> world_;  // until there is a grid
  const SiteSettings settings_;
  const bool is_root_;
  const std::filesystem::path directory_;
  std::optional<ExpiryNotice> expiry_;  // rank 0's, as are the next two
  SiteRound round_;
  std::optional<AccountedDelivery> delivery_;
  std::optional<AgreedTerms> agreed_;                     // once there are some
  std::optional<std::array<std::string, 3>> begun_with_;  // recipe, metadata and tokenizer of the model
  RoundPrivacy round_privacy_;
  PrivacyRecipe privacy_;
  std::optional<ProcessGrid> grid_;
  std::optional<Trainer> trainer_;
  std::optional<SiteModel> site_model_;
};

}  // namespace conclave

// The federation's model at a site: the update from training, for the coordinator, and the part that the site
// keeps private.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "federated/file_transfer.h"
#include "federated/global_model.h"
#include "federated/policy.h"
#include "federated/round_privacy.h"
#include "parallel/process_grid.h"

namespace conclave {

class SiteModel {
 public:
  /// For a model laid out as in the checkpoint `base`. Private numbers are stored in `directory`. `grid` must
  /// outlive the object. Throws Error if the rules do not fit the model.
  SiteModel(const CheckpointReader& base, std::span<const SharingRule> rules, std::filesystem::path directory,
            const ProcessGrid& grid);

  const SharingPolicy& policy() const { return policy_; }
  /// Throws Error if a tensor is divided by experts in the checkpoint and not in this site's model,
  /// `entries`, or the reverse: rules that name experts would keep the wrong rows private.
  void check_experts(std::span<const TensorEntry> entries) const;
  /// Throws Error unless the rules keep everything private that `never` names, the parameters that never
  /// leave this site.
  void check_private(std::span<const SharingRule> never) const;
  /// Throws Error if the rounds' noise hides records or clients and the rules keep something private: sites
  /// would train that part by their own sums, which have no noise.
  void check_noise(const RoundPrivacy& rounds) const;
  bool has_private_part() const { return policy_.exchanged_elements() < policy_.model_elements(); }

  /// Overwrites the private numbers in this rank's `entries`, which hold the global model, with those that
  /// this site kept for `round`. If there are none, uses those for the last round before it; if a coordinator
  /// went back by more rounds than there are files, those for a later round. Returns the round that was used;
  /// nothing if the site has kept no numbers.
  std::optional<std::int64_t> restore_private(std::span<const TensorEntry> entries, std::int64_t round) const;

  /// Collective. Sets this rank's `correction` ("control/...") to the control variate of `base` minus the
  /// site's own (federated/strategies/scaffold.h). The site's own is the one after round `counted`, from 1:
  /// the last round in which its update counted, as the coordinator knows. For round 0 it is zeros. Returns
  /// "", or a warning: its file is missing, and the site's own is taken to be zeros, or (once) none of this
  /// site's updates counted, or the coordinator may have forgotten them.
  std::string set_correction(std::span<const TensorEntry> correction, const CheckpointReader& base,
                             std::int64_t counted);

  struct Control {
    std::span<const TensorEntry> gradient;  ///< mean of the corrected gradients; empty: no control variate
    std::int64_t counted = 0;               ///< as in set_correction()
  };
  /// Collective, after training. Rank 0 writes to `update` how the shared numbers changed from `base`, as f32
  /// in the policy's order, and then the change of the site's control variate. It stores the private numbers
  /// and the control variate for rounds after `round`. For tensors in `changes`, by name, the update has
  /// these values: a difference of weights would have their f32 rounding. Throws Error if a tensor is missing
  /// or not finite. Returns the file's digest, on rank 0.
  FileDigest save(std::span<const TensorEntry> entries, const CheckpointReader& base, std::int64_t round,
                  const std::string& update, const Control& control,
                  std::span<const TensorEntry> changes = {}) const;

 private:
  std::filesystem::path kept_file(std::string_view prefix, std::int64_t round) const;
  std::set<std::int64_t> rounds_kept(std::string_view prefix) const;  ///< those with such a file
  bool has_control(const CheckpointReader& base) const;
  std::filesystem::path private_file(std::int64_t round) const;
  std::optional<std::int64_t> kept_private(std::int64_t round) const;
  std::filesystem::path control_file(std::int64_t round) const;
  /// Stores the model for `round`, and removes the files that no repetition of a round needs.
  void save_private(std::span<const float> model, std::int64_t round) const;
  void remove_others(std::string_view prefix, const std::set<std::filesystem::path>& kept) const;
  void save_control(std::span<const float> change, std::int64_t round, std::int64_t counted) const;

  ModelLayout layout_;
  SharingPolicy policy_;
  std::filesystem::path directory_;
  const ProcessGrid& grid_;
  bool told_of_no_update_ = false;
};

}  // namespace conclave

// The federation's model at a site: what training has changed of it, for the coordinator, and what of it the
// site keeps to itself.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "federated/file_transfer.h"
#include "federated/global_model.h"
#include "federated/policy.h"
#include "parallel/process_grid.h"

namespace conclave {

class SiteModel {
 public:
  /// For a model laid out as in the checkpoint `base`. What is private lies in `directory`. `grid` must
  /// outlive it. Throws Error where the rules do not fit the model.
  SiteModel(const CheckpointReader& base, std::span<const SharingRule> rules, std::filesystem::path directory,
            const ProcessGrid& grid);

  const SharingPolicy& policy() const { return policy_; }
  /// Throws Error where the checkpoint has a tensor by experts that this site's model, `entries`, has not, or
  /// the reverse: by rules that name experts, other rows would be private.
  void check_experts(std::span<const TensorEntry> entries) const;
  /// Throws Error where `never`, what this site keeps to itself in any case, is not private by the rules.
  void check_private(std::span<const SharingRule> never) const;
  bool has_private_part() const { return policy_.exchanged_elements() < policy_.model_elements(); }

  /// Gives this rank's `entries`, which hold the global model, what this site kept for `round`, or else for
  /// the last before it.
  void restore_private(std::span<const TensorEntry> entries, std::int64_t round) const;

  /// Collective. Gives this rank's `correction` ("control/...") the control variate of `base` less the site's
  /// own (federated/strategies/scaffold.h). That is the one that the site had after round `counted`, from 1,
  /// the last in which its update counted, as the coordinator knows; of 0 it is zeros. False where it should
  /// be in the directory and is not, and was taken for zeros, too.
  bool set_correction(std::span<const TensorEntry> correction, const CheckpointReader& base,
                      std::int64_t counted) const;

  struct Control {
    std::span<const TensorEntry> gradient;  ///< the mean of the corrected ones; empty: without
    std::int64_t counted = 0;               ///< as of set_correction()
  };
  /// Collective, after training. Rank 0 writes what the entries have more than `base`, of what is shared, as
  /// f32 in the policy's order to `update`, and behind it the change of the site's control variate; and what
  /// is private, and that control variate, for rounds after `round`. Of tensors that are among `changes`, by
  /// the same names, what is sent is these: beside a weight, f32 would round them. Throws Error where a
  /// tensor is missing, or not finite. Returns the file's digest, on rank 0.
  FileDigest save(std::span<const TensorEntry> entries, const CheckpointReader& base, std::int64_t round,
                  const std::string& update, const Control& control,
                  std::span<const TensorEntry> changes = {}) const;

 private:
  std::filesystem::path private_file(std::int64_t round) const;
  std::int64_t kept_private(std::int64_t round) const;
  std::filesystem::path control_file(std::int64_t round) const;
  /// Of such a file, from number `first` on.
  void save_private(std::span<const float> model, std::int64_t round) const;
  void remove_others(std::string_view prefix, const std::filesystem::path& kept,
                     const std::filesystem::path& also_kept) const;
  void save_control(std::span<const float> change, std::int64_t round, std::int64_t counted) const;

  ModelLayout layout_;
  SharingPolicy policy_;
  std::filesystem::path directory_;
  const ProcessGrid& grid_;
};

}  // namespace conclave

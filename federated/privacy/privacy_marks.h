// What a checkpoint's metadata says of the privacy of the data that a model was trained on. At most one of
// these marks is of the run that made the model:
//   "privacy"         training in one place: of records or clients
//   "client_privacy"  a simulation's clients
//   "round_privacy"   a federation's rounds
// "privacy_before" lists the marks of the models that this run started from, each with its "of", one of the
// names above. Their data may overlap, so nobody adds them up.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace conclave {

/// What a run spent of the privacy of its data. A mark need not say everything.
struct PrivacyMark {
  std::string unit = {};                   ///< "record", "client" or "site"
  std::optional<std::int64_t> count = {};  ///< steps of training in one place, or rounds
  std::optional<double> epsilon = {};      ///< infinite if something had no noise; none: nothing spent
  std::optional<double> delta = {}, noise_multiplier = {}, sampling_rate = {};
  std::string name = {};   ///< of the run, in a ledger
  std::string scope = {};  ///< whose data and which parameters the figures are of
  bool operator==(const PrivacyMark&) const = default;
};

enum class MarkKind : std::uint8_t { training, clients, rounds };

/// The mark of the run that made the model with this metadata, if it has one of this kind.
std::optional<PrivacyMark> find_mark(const nlohmann::json& metadata, MarkKind kind);
void set_mark(nlohmann::json& metadata, MarkKind kind, const PrivacyMark& mark);

/// Whether the run that made the model has a mark.
bool is_private(const nlohmann::json& metadata);

/// The "privacy_before" of a run that starts from a model with this metadata: what that model lists, and its
/// own mark if it has spent anything. An array, which may be empty.
nlohmann::json privacy_before(const nlohmann::json& metadata);

/// The metadata of a model for a run that goes on from it: without its own mark, and with "privacy_before" if
/// that lists anything.
nlohmann::json begun_from(nlohmann::json metadata);

/// A line for each mark: the run's own first, then those before.
std::vector<std::string> describe_privacy(const nlohmann::json& metadata);

}  // namespace conclave

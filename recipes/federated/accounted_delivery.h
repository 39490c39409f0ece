// The order of recording what an update spends, sending the update, and forgetting it, at a site with or
// without privacy. Used by rank 0 only.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "federated/privacy/ledger.h"
#include "federated/privacy/privacy_marks.h"
#include "federated/round_privacy.h"
#include "federated/transport/site.h"
#include "recipes/federated/waiting_update.h"

namespace conclave {

/// The ledger of a site whose updates and models are in `directory`: the file `given` or, if that is "", one
/// in the directory. A new folder has spent nothing. In a folder with earlier rounds, a new ledger would
/// forget what they spent, so this throws Error if there were rounds and the file is missing.
std::filesystem::path site_ledger_file(const std::filesystem::path& directory, const std::string& given);

class AccountedDelivery {
 public:
  using Say = std::function<void(const std::string&)>;

  /// Of updates in `directory`, for rounds with this privacy, of the federation `run`, as ledgers name it.
  /// `site` must outlive the object.
  AccountedDelivery(SiteTransport& site, std::filesystem::path directory, const RoundPrivacy& rounds,
                    std::string run, Say say);

  /// From now on, what updates spend is recorded in `file`. Throws what PrivacyLedger does, and Error if the
  /// file lacks a spend that was made in this folder: it is another ledger, or an older copy.
  void open_ledger(const std::filesystem::path& file, const std::string& unit, const PrivacyBudget& budget);
  bool has_ledger() const { return ledger_.has_value(); }
  /// For a checkpoint: all that the ledger has; none without one. If rounds hide sites, only the shared
  /// update gets noise. So epsilon is infinite for a model with parameters that the site trained for itself
  /// (`kept_private`).
  std::optional<PrivacyMark> mark(bool kept_private) const;

  /// Delivers `update` in the present round, `round`. `event` is what it spends; it is read only if there is
  /// a ledger. A spend is on disk before anything that it pays for is sent, so that a failed delivery counts,
  /// too; if it cannot be recorded, or exceeds the budget, this throws Error and nothing is sent.
  ///
  /// An update that has its noise already reveals no more if it is sent twice. An update that gets its noise
  /// when it is sent (rounds with privacy) spends privacy each time, because the sum may be unmasked without
  /// this site. Returns also if interrupted.
  void send(const WaitingUpdate& update, const SiteRound& round, const std::optional<PrivacyEvent>& event);

 private:
  PrivacySpend spend_of(const WaitingUpdate& update, const std::optional<PrivacyEvent>& event) const;
  void record(const WaitingUpdate& update, const std::optional<PrivacyEvent>& event);

  SiteTransport& site_;
  std::filesystem::path directory_;
  RoundPrivacy rounds_;
  std::string run_;
  Say say_;
  std::optional<PrivacyLedger> ledger_;
  std::string ledger_path_;
};

}  // namespace conclave

#include "recipes/federated/accounted_delivery.h"

#include <fmt/format.h>

#include <array>
#include <fstream>
#include <limits>

#include "core/durable_file.h"
#include "core/text.h"
#include "federated/random_source.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

// Says, in a site's folder, that privacy was spent there, in which ledger that is, and what the newest spend
// in it was. The ledger may be elsewhere, and an attempt that failed after the update was sent leaves nothing
// else in the folder.
constexpr const char* kSpentNote = "spent.txt";
constexpr std::string_view kNewest = "newest spend: ";  // begins the line before its digest

// Throws Error if there is a note, unless the ledger has the spend that the note tells of.
void expect_noted_spend(const fs::path& directory, const std::string& file, const PrivacyLedger& ledger) {
  const fs::path path = directory / kSpentNote;
  if (!fs::exists(path)) return;
  std::ifstream note(path);
  std::vector<std::string> newest;
  for (std::string line; std::getline(note, line);)
    if (line.starts_with(kNewest)) newest.push_back(line.substr(kNewest.size()));
  require(newest.size() == 1,
          "{}: it has {} lines that begin with \"{}\", and must have one, or nobody knows whether {} is the "
          "newest ledger; restore it, or begin in another site.directory",
          path.string(), newest.size(), kNewest, file);
  require(ledger.has(newest.front()),
          "{}: this is another ledger, or an older copy: it lacks the newest spend that {} tells of, and "
          "would forget what was spent. Put back the newest ledger, or set privacy.ledger to where it is; "
          "if what was sent is not to count, begin in another site.directory",
          file, path.string());
}

// A unique name for a release. Its noise is not drawn yet, so there is no digest of its bytes.
std::string random_name() {
  std::array<std::byte, 32> bytes;
  SystemRandom().fill(bytes);
  return hexadecimal(bytes);
}

}  // namespace

fs::path site_ledger_file(const fs::path& directory, const std::string& given) {
  const fs::path file = given.empty() ? directory / "privacy.sqlite" : fs::path(given);
  if (fs::exists(file)) return file;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    require(
        name != kSpentNote && name != "update.json" && name != "unmasked.sqlite" &&
            !name.starts_with("private-"),
        "{}: there were rounds here ({}), and the ledger of what they spent, {}, is missing; put it back, "
        "or set privacy.ledger to where it is; if what was sent in them is not to count, begin in another "
        "site.directory",
        directory.string(), name, file.string());
  }
  if (file.has_parent_path()) create_durable_directories(file.parent_path());
  return file;
}

AccountedDelivery::AccountedDelivery(SiteTransport& site, fs::path directory, const RoundPrivacy& rounds,
                                     std::string run, Say say)
    : site_(site),
      directory_(std::move(directory)),
      rounds_(rounds),
      run_(std::move(run)),
      say_(std::move(say)) {}

std::optional<PrivacyMark> AccountedDelivery::mark(bool kept_private) const {
  if (!ledger_) return std::nullopt;
  if (kept_private && rounds_.unit == RoundPrivacy::Unit::site)
    return PrivacyMark{.unit = ledger_->unit(),
                       .epsilon = std::numeric_limits<double>::infinity(),
                       .scope =
                           "noise is in the shared parameters only; what the site kept was trained "
                           "without noise"};
  return PrivacyMark{.unit = ledger_->unit(),
                     .epsilon = ledger_->epsilon(),
                     .delta = ledger_->budget().delta,
                     .scope = "this site's data, all that its ledger has"};
}

void AccountedDelivery::open_ledger(const fs::path& file, const std::string& unit,
                                    const PrivacyBudget& budget) {
  ledger_path_ = file.string();
  ledger_.emplace(ledger_path_, unit, budget);
  expect_noted_spend(directory_, ledger_path_, *ledger_);
}

PrivacySpend AccountedDelivery::spend_of(const WaitingUpdate& update,
                                         const std::optional<PrivacyEvent>& event) const {
  require(event.has_value(), "round {}: an update that spends nothing, at a site with a ledger",
          update.round + 1);
  return {.run = run_, .round = update.round, .digest = update.spend, .event = *event};
}

void AccountedDelivery::record(const WaitingUpdate& update, const std::optional<PrivacyEvent>& event) {
  if (!ledger_) return;
  PrivacySpend spent = spend_of(update, event);
  if (rounds_.is_on()) spent.digest = random_name();
  // The note is on disk before the spend, so that a full disk costs no privacy. It takes its place after the
  // spend and before what that pays for is sent: a kill before that leaves a ledger with one spend more than
  // the note tells of, which is no reason to refuse it.
  const std::string newest = ledger_->has(spent.digest) ? ledger_->newest() : spent.digest;
  AtomicFile note((directory_ / kSpentNote).string());
  note.write(fmt::format("{}\n{}{}\n", fs::absolute(ledger_path_).string(), kNewest, newest));
  // Two noisy sums of the same drawn units reveal more than two of units drawn anew, which the ledger
  // assumes. So a sampled update is used once.
  if (rounds_.rate < 1) WaitingUpdate::forget(directory_);
  const bool anew = ledger_->record(spent);
  note.commit();
  const double epsilon = ledger_->epsilon();
  if (const std::int64_t times = ledger_->count(spent.run, spent.round); anew && times > 1)
    say_(fmt::format(
        "warning: round {}: privacy has now been spent for it {} times, as attempts at a sum fail or the "
        "coordinator begins the round again, which brought epsilon to {:.4f}",
        update.round + 1, times, epsilon));
  say_(fmt::format("privacy: epsilon {:.4f} at delta {} with this round", epsilon, ledger_->budget().delta));
}

void AccountedDelivery::send(const WaitingUpdate& update, const SiteRound& round,
                             const std::optional<PrivacyEvent>& event) {
  const auto spend = [&] { record(update, event); };
  if (ledger_ && rounds_.is_on())
    ledger_->check(spend_of(update, event));  // fails before other sites wait for this one
  else
    spend();
  SiteRound trained = round;
  trained.round = update.round;
  trained.digest = update.base;
  try {
    const bool delivered =
        site_.deliver(trained, {update.file, update.digest}, update.examples, update.tokens, update.metrics,
                      rounds_.is_on() ? spend : std::function<void()>([] {}));
    if (delivered) say_(fmt::format("round {} of {}: delivered", trained.round + 1, round.rounds));
    // An update stays until the next round's replaces it: a coordinator that was killed may ask for it
    // again, and its privacy is spent. Two kinds are removed: an update of a noisy sum, which may be known
    // already, so that the next noise spends anew, and one that no asynchronous round took.
    if (rounds_.is_on() || (round.asynchronous && !delivered)) WaitingUpdate::forget(directory_);
  } catch (const Interrupted&) {
  }  // the next call of Site::next() tells the caller
}

}  // namespace conclave

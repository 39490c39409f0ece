// A site's record of what it has sent for the sum of a round. It is on disk before anything is sent, so it
// holds after a restart, too. For each round it has two facts: whether the site has helped to unmask an
// attempt at the sum, and the highest number of an attempt into which it has sent its masked update.
//
// Two rules follow from them, with or without noise:
// R1. A site that has helped to unmask a round takes part in no further attempt at it.
// R2. A site takes part only in an attempt with a number above that of every attempt into which it has sent.
//
// So a coordinator that lies learns no update from several sums of a round. Take any linear combination of
// the sums that it unmasked, and let i be the lowest attempt with a factor other than zero. At least
// `least - colluding` honest sites have unmasked i (up to 128 sites; above, see neighbours.h). By R1 none of
// them has sent into a later attempt afterwards, and by R2 none had sent into one with a higher number
// before. So the updates of all of them are in the sum of i alone, with the same factor: the combination
// hides each of them among these sites, for any number of attempts and any quorum.
//
// The coordinator's own attempts are never refused: their numbers only rise, and it makes none after it has
// asked sites to unmask.
//
// The key is the round's number alone, because anything else that could distinguish two federations comes
// from the coordinator.
#pragma once

#include <filesystem>
#include <optional>

#include "federated/database.h"

namespace conclave {

class RoundRecord {
 public:
  /// Opens the record in `directory`, or creates it. Throws Error as Database does.
  RoundRecord(const std::filesystem::path& directory, std::int64_t round);

  /// Throws Error if this site must not take part in `attempt`, by R1 or R2. Call it before anything is sent.
  void check_may_join(std::int64_t attempt) const;
  /// On disk when it returns; call it before the masked update is sent. Throws as check_may_join().
  void note_sent(std::int64_t attempt);
  /// On disk when it returns; call it before the site helps to unmask `attempt`. Throws Error unless that is
  /// the attempt into which it has sent last.
  void note_unmasked(std::int64_t attempt);

 private:
  std::optional<std::int64_t> sent() const;

  std::string file_;
  Database database_;
  std::int64_t round_;
};

}  // namespace conclave

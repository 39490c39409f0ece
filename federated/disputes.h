// Which sites take part in attempts at a secure sum, after what earlier attempts have shown of them, since
// the coordinator was started.
//
// A site is named a liar, and left out of all attempts, if an attempt proves it, or if the site disagrees
// with more others than may lie. Of two other sites that disagree, at least one has lied, and nobody knows
// which. So both are left out: then every honest site that is lost costs a site that lies its seat, and liars
// run out. (If only the site with more partners were left out, two liars could exclude an honest site for
// good, at no cost.) If fewer sites than a sum needs would be left, one of the two takes part.
//
// Sites that were gone when attempts failed are left out, too (failed_attempt.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "federated/failed_attempt.h"

namespace conclave {

class Disputes {
 public:
  using Say = std::function<void(const std::string&)>;
  using Names = SiteNames;
  /// `random` decides between sites of which nobody knows which one lies, or which equals are left out. It
  /// must outlive this.
  Disputes(Say say, RandomSource& random) : say_(std::move(say)), random_(random) {}

  /// What an attempt at the sum of `round` has shown. By numbers in `sites`: those that cheated, and by site
  /// those with which it disagrees. At most `most_liars` of its sites lie, but partners add up over attempts
  /// among different sites: the largest bound of all attempts counts. Says who is named a liar.
  void note(std::int64_t round, const std::vector<std::string>& sites,
            const std::set<std::uint32_t>& cheaters,
            const std::map<std::uint32_t, std::set<std::uint32_t>>& disagreements, std::size_t most_liars);

  /// Those of `ready` that take part in the next attempt at the sum of `round`, of which no two disagree. If
  /// fewer than `least` could be left, they may be fewer. Says who is left out, and because of whom, when
  /// that changes.
  Names members(std::int64_t round, const Names& ready, std::size_t least);

  const Names& liars() const { return liars_; }

  /// Counts the absences of a failed attempt. Returns what follows from them.
  AfterFailure note_failure(const FailedAttempt& attempt, std::size_t least);
  /// These sites took part in a sum to the end.
  void note_present(const Names& sites);

 private:
  Names partners(const std::string& site, const Names& among) const;
  /// How many of `sites` must go so that no two of the rest disagree; an upper bound.
  std::size_t needed(Names sites) const;

  Say say_;
  RandomSource& random_;
  Names liars_;
  std::map<std::string, Names> disagreements_;  // by site
  std::size_t most_liars_ = 1;
  std::vector<std::pair<std::string, std::string>> pairs_;  // that are left out together, the oldest first
  Absences absences_;
  std::string told_;  // who is left out, as said last
};

}  // namespace conclave

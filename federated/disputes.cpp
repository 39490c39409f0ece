#include "federated/disputes.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace conclave {

void Disputes::note(std::int64_t round, const std::vector<std::string>& sites,
                    const std::set<std::uint32_t>& cheaters,
                    const std::map<std::uint32_t, std::set<std::uint32_t>>& disagreements,
                    std::size_t most_liars) {
  most_liars_ = std::max(most_liars_, most_liars);
  Names found;
  for (const std::uint32_t site : cheaters) found.insert(sites[site]);
  for (const auto& [site, others] : disagreements) {
    Names& all = disagreements_[sites[site]];
    for (const std::uint32_t other : others) all.insert(sites[other]);
    if (all.size() > most_liars_) found.insert(sites[site]);
  }
  for (const std::string& site : found)
    if (liars_.insert(site).second)
      say_(fmt::format(
          "warning: round {}: {} sent false shares, or said so of others' good ones; it is left out of "
          "sums until the coordinator is started again",
          round + 1, site));
}

Disputes::Names Disputes::partners(const std::string& site, const Names& among) const {
  const auto found = disagreements_.find(site);
  Names result;
  if (found != disagreements_.end())
    std::ranges::set_intersection(found->second, among, std::inserter(result, result.end()));
  return result;
}

std::size_t Disputes::needed(Names sites) const {
  for (std::size_t gone = 0;; ++gone) {
    std::size_t most = 0;
    const std::string* worst = nullptr;
    for (const auto& [site, others] : disagreements_)
      if (sites.contains(site))
        if (const std::size_t count = partners(site, sites).size(); count > most) {
          most = count;
          worst = &site;
        }
    if (!worst) return gone;
    sites.erase(*worst);
  }
}

AfterFailure Disputes::note_failure(const FailedAttempt& attempt, std::size_t least) {
  AfterFailure after = after_failure(attempt, absences_, least);
  absences_ = after.absences;
  return after;
}

void Disputes::note_present(const Names& sites) {
  for (const std::string& site : sites) absences_.erase(site);
}

Disputes::Names Disputes::members(std::int64_t round, const Names& ready, std::size_t least) {
  Names members;
  std::ranges::set_difference(ready, liars_, std::inserter(members, members.end()));
  RandomBits bits(random_);
  std::string told;
  const auto leave_out = [&](const std::string& site, const std::string& why) {
    members.erase(site);
    if (told.size() < 500) told += fmt::format("{}{} because {}", told.empty() ? "" : ", ", site, why);
  };
  const auto disagrees = [&](const std::string& site, const std::string& other) {
    leave_out(site, fmt::format("of {}", other));
  };
  // Returns whether both have left, or one of them, for lack of others.
  const auto part = [&](const std::string& one, const std::string& other) {
    Names rest = members;
    rest.erase(one);
    rest.erase(other);
    if (rest.size() >= least + needed(rest)) {
      disagrees(one, other);
      disagrees(other, one);
      return true;
    }
    const std::size_t mine = disagreements_[one].size(), theirs = disagreements_[other].size();
    const bool me = mine != theirs ? mine > theirs : bits.below(2) == 0;
    disagrees(me ? one : other, me ? other : one);
    return false;
  };
  for (const auto& [one, other] : pairs_)
    if (members.contains(one) && members.contains(other)) part(one, other);
  while (true) {  // pairs that are new; the sites with most partners first
    std::string one;
    Names others;
    for (const auto& [site, all] : disagreements_)
      if (members.contains(site))
        if (Names there = partners(site, members);
            there.size() > others.size() ||
            (!there.empty() && there.size() == others.size() && bits.below(2) == 0)) {
          one = site;
          others = std::move(there);
        }
    if (others.empty()) break;
    const std::string other =
        *std::next(others.begin(), static_cast<std::ptrdiff_t>(bits.below(others.size())));
    if (part(one, other)) pairs_.emplace_back(one, other);
  }
  const std::string_view why =
      told.empty()
          ? ""
          : "; of each two that disagree on shares at least one lies, and their owners should find out which";
  for (const std::string& site : left_out_as_absent(members, absences_, least, bits))
    leave_out(site, "attempts failed when it was gone");
  if (told != told_ && !told.empty())
    say_(fmt::format("warning: round {}: left out of sums: {}{}", round + 1, told, why));
  told_ = told;
  return members;
}

}  // namespace conclave

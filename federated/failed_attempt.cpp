#include "federated/failed_attempt.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

namespace conclave {
namespace {

// Members that were absent too often, and how often.
std::vector<std::pair<std::string, int>> often_absent(const SiteNames& members, const Absences& absences) {
  std::vector<std::pair<std::string, int>> often;
  for (const auto& [site, times] : absences)
    if (times >= kMostAbsences && members.contains(site)) often.emplace_back(site, times);
  return often;
}

// How many members a sum does not need.
std::size_t spare(const SiteNames& members, std::size_t least) {
  return members.size() - std::min(members.size(), least);
}

}  // namespace

AfterFailure after_failure(const FailedAttempt& attempt, Absences absences, std::size_t least) {
  AfterFailure after{.absences = std::move(absences)};
  if (attempt.phase < AttemptPhase::mask || attempt.disputed) return after;
  after.outage = 2 * attempt.absent.size() > attempt.sites.size();
  after.wait = after.outage || attempt.absent.empty();
  if (after.wait) return after;
  for (auto& [site, times] : after.absences)
    if (times >= kMostAbsences && !attempt.sites.contains(site)) --times;
  for (const std::string& site : attempt.absent) ++after.absences[site];
  auto often = often_absent(attempt.sites, after.absences);
  const std::size_t out = spare(attempt.sites, least);
  if (often.size() <= out) return after;
  std::ranges::sort(often, std::ranges::greater(), [](const auto& one) { return one.second; });
  for (const auto& [site, times] : often)  // of equals, any may have to stay
    if (times <= often[out].second) after.needed.insert(site);
  after.wait = true;
  return after;
}

SiteNames left_out_as_absent(const SiteNames& members, const Absences& absences, std::size_t least,
                             RandomBits& random) {
  auto often = often_absent(members, absences);
  for (std::size_t i = often.size(); i > 1; --i) std::swap(often[i - 1], often[random.below(i)]);
  std::ranges::stable_sort(often, std::ranges::greater(), [](const auto& one) { return one.second; });
  often.resize(std::min(often.size(), spare(members, least)));
  SiteNames out;
  for (const auto& [site, times] : often) out.insert(site);
  return out;
}

}  // namespace conclave

#include "parallel/moe/route_cache.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include "core/memory.h"
#include "core/xxh3.h"

namespace conclave {
namespace {

constexpr std::uint32_t kEnd = std::uint32_t{1} << 31;
constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t kMiB = std::size_t{1} << 20;

}  // namespace

std::size_t RouteCache::lines_for(std::size_t scores) {
  return scores <= kFirstScores ? 1 : 1 + (scores - kFirstScores + kMoreScores - 1) / kMoreScores;
}

std::size_t RouteCache::checked(std::size_t bytes, Index experts, Index most_rows) {
  require(experts >= 1 && most_rows >= 1 && most_rows < kEnd / experts,
          "route cache: entries of at most {} rows for {} experts are none, or too large", most_rows,
          experts);
  const std::size_t least =
      lines_for(static_cast<std::size_t>(experts * most_rows)) * (sizeof(Line) + sizeof(LineIndex));
  require(
      bytes >= least,
      "moe.route_cache_mib: {} are too few for the scores of {} rows for {} experts; set it to {} or more",
      format_bytes(bytes), most_rows, experts, (least + kMiB - 1) / kMiB);
  const std::size_t available = available_memory();
  require(bytes <= available,
          "moe.route_cache_mib: {} are more than the {} of memory available; set it to less than {}",
          format_bytes(bytes), format_bytes(available), available / kMiB);
  return bytes;
}

RouteCache::RouteCache(std::size_t bytes, Index experts, Index most_rows)
    : arena_("route cache", checked(bytes, experts, most_rows)),
      experts_(static_cast<std::size_t>(experts)),
      most_scores_(static_cast<std::size_t>(experts * most_rows)) {
  // One bit of an index is kEnd, so there are at most 2^31 - 1 lines; these 128 GiB are enough.
  const std::size_t count =
      std::min<std::size_t>(bytes / (sizeof(Line) + sizeof(LineIndex)), std::size_t{kEnd} - 1);
  lines_ = {static_cast<Line*>(arena_.allocate(count * sizeof(Line))), count};
  buckets_ = {static_cast<LineIndex*>(arena_.allocate(count * sizeof(LineIndex))), count};
  arena_.seal();
  clear();  // touches every page, so that missing memory is found out now
}

RouteCache::Key RouteCache::key(std::uint64_t router_version, const Tensor& features) {
  if (!features.contiguous()) fail("route cache: features {} have gaps between their rows", features.shape());
  const auto content = std::bit_cast<Key>(xxh3_128(features.raw(), features.bytes()));
  // The content's hash is hashed again with the other parts, so that all 128 bits depend on every part.
  std::array<std::uint64_t, 5 + Shape::kMaxRank> parts{content.low, content.high, router_version,
                                                       static_cast<std::uint64_t>(features.dtype()),
                                                       static_cast<std::uint64_t>(features.rank())};
  for (int dim = 0; dim < features.rank(); ++dim)
    parts[static_cast<std::size_t>(5 + dim)] = static_cast<std::uint64_t>(features.size(dim));
  return std::bit_cast<Key>(xxh3_128(parts.data(), sizeof parts));
}

// Calls visit(scores of a line, index of the first, how many) for the first `count` scores of a chain, or for
// all if the chain has fewer. Returns the last line visited.
template <class Visit>
RouteCache::LineIndex RouteCache::walk(LineIndex first, std::size_t count, Visit&& visit) {
  std::size_t done = std::min(count, kFirstScores);
  visit(lines_[first].first.scores, std::size_t{0}, done);
  LineIndex line = first;
  while (done < count) {
    const LineIndex next = lines_[line].more.next;
    if (next & kEnd) break;
    line = next;
    const std::size_t piece = std::min(count - done, kMoreScores);
    visit(lines_[line].more.scores, done, piece);
    done += piece;
  }
  return line;
}

RouteCache::LineIndex& RouteCache::bucket_of(const Key& key) {
  return buckets_[(key.high >> 32) * buckets_.size() >> 32];
}

RouteCache::LineIndex RouteCache::entry_of(const Key& key) {
  LineIndex entry = bucket_of(key);
  while (entry != kNone && lines_[entry].first.key != key) entry = lines_[entry].first.same_bucket;
  return entry;
}

void RouteCache::make_newest(LineIndex entry) {
  lines_[entry].first.older = newest_;
  lines_[entry].first.newer = kNone;
  (newest_ == kNone ? oldest_ : lines_[newest_].first.newer) = entry;
  newest_ = entry;
}

void RouteCache::leave_order(LineIndex entry) {
  const First& first = lines_[entry].first;
  (first.older == kNone ? oldest_ : lines_[first.older].first.newer) = first.newer;
  (first.newer == kNone ? newest_ : lines_[first.newer].first.older) = first.older;
}

void RouteCache::remove(LineIndex entry) {
  leave_order(entry);
  LineIndex* link = &bucket_of(lines_[entry].first.key);
  while (*link != entry) link = &lines_[*link].first.same_bucket;
  *link = lines_[entry].first.same_bucket;

  LineIndex last = entry;
  for (--used_lines_; (lines_[last].more.next & kEnd) == 0; --used_lines_) last = lines_[last].more.next;
  lines_[last].more.next = unused_;
  unused_ = entry;
  --entries_;
}

bool RouteCache::find(const Key& key, std::span<float> scores) {
  const LineIndex entry = entry_of(key);
  if (entry == kNone) {
    ++misses_;
    return false;
  }
  const LineIndex last =
      walk(entry, scores.size(), [&](const float* from, std::size_t at, std::size_t count) {
        std::copy_n(from, count, scores.data() + at);
      });
  require(lines_[last].more.next == (kEnd | scores.size()),
          "route cache: {} scores are looked up, but the entry has another number of scores", scores.size());
  if (entry != newest_) {
    leave_order(entry);
    make_newest(entry);
  }
  ++hits_;
  return true;
}

void RouteCache::insert(const Key& key, std::span<const float> scores) {
  require(!scores.empty() && scores.size() <= most_scores_ && scores.size() % experts_ == 0,
          "route cache: {} scores are not 1 to {} rows for {} experts", scores.size(),
          most_scores_ / experts_, experts_);
  if (const LineIndex before = entry_of(key); before != kNone) remove(before);
  const std::size_t needed = lines_for(scores.size());
  for (; lines_.size() - used_lines_ < needed; ++evictions_) remove(oldest_);

  const LineIndex entry = unused_;
  const LineIndex last = walk(entry, scores.size(), [&](float* to, std::size_t at, std::size_t count) {
    std::copy_n(scores.data() + at, count, to);
  });
  unused_ = lines_[last].more.next;
  lines_[last].more.next = kEnd | static_cast<LineIndex>(scores.size());
  used_lines_ += needed;
  ++entries_;

  LineIndex& bucket = bucket_of(key);
  lines_[entry].first.key = key;
  lines_[entry].first.same_bucket = bucket;
  bucket = entry;
  make_newest(entry);
}

void RouteCache::clear() {
  for (std::size_t i = 0; i < lines_.size(); ++i) lines_[i].more.next = static_cast<LineIndex>(i + 1);
  lines_.back().more.next = kNone;
  std::ranges::fill(buckets_, kNone);
  unused_ = 0;
  oldest_ = newest_ = kNone;
  used_lines_ = 0;
  entries_ = 0;
}

RouteCacheStatistics RouteCache::statistics() const {
  return {hits_, misses_, evictions_, entries_, used_lines_ * sizeof(Line), lines_.size() * sizeof(Line)};
}

}  // namespace conclave

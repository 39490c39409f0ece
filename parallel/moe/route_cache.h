// A cache of router scores for inputs that were seen before. It is for inference, where weights do not
// change. The key is a 128-bit hash of the bytes of the input and of everything else that the scores depend
// on, and all 128 bits are compared: two given inputs share a key with probability 2^-128. (XXH3 is not
// cryptographic: somebody who can choose the router's input bit by bit could construct a collision.)
//
// All memory is one array of lines of 64 bytes, allocated at construction. An entry is a chain of lines: the
// first line has the key, the links and 8 scores, and each further line has 15 scores. So one decision among
// 8 experts is one cache line, a long text has as many lines as it needs, and fragmentation never makes a
// line unusable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/arena.h"
#include "core/tensor.h"

namespace conclave {

struct RouteCacheStatistics {
  Index hits = 0, misses = 0, evictions = 0;  ///< since construction or the last reset
  Index entries = 0;                          ///< now
  std::size_t bytes = 0;                      ///< filled by entries now, of `capacity`
  std::size_t capacity = 0;  ///< bytes of all lines; the index takes another 4 bytes for each line of 64
};

/// For one thread. Serves any number of routers with the same number of experts; the router version in the
/// key distinguishes them.
class RouteCache {
 public:
  struct Key {
    std::uint64_t low = 0, high = 0;
    bool operator==(const Key&) const = default;
  };

  /// Allocates at most `bytes`, all of them now, for entries of at most `most_rows` rows of `experts` scores.
  /// Throws Error, naming moe.route_cache_mib, if that exceeds the available memory or is too little for one
  /// entry.
  RouteCache(std::size_t bytes, Index experts, Index most_rows);

  /// XXH3-128 of features [tokens, hidden] (any shape; must be contiguous, else Error), their shape and
  /// dtype, and `router_version`: a number that no other router has and that changes whenever the router's
  /// weights change.
  static Key key(std::uint64_t router_version, const Tensor& features);

  /// If there is an entry for `key`, copies it to `scores`, makes it the most recently used and returns true.
  /// Else returns false and leaves `scores` unchanged. Throws Error if the entry has another size than
  /// `scores`.
  bool find(const Key& key, std::span<float> scores);

  /// Stores a copy of `scores` [rows, experts] under `key`, replacing an older entry of that key and evicting
  /// the least recently used entries as needed. Throws Error if `scores` are not 1 to most_rows whole rows.
  void insert(const Key& key, std::span<const float> scores);

  /// Removes all entries, in time proportional to the capacity. Hits, misses and evictions keep counting.
  void clear();

  RouteCacheStatistics statistics() const;
  void reset_statistics() { hits_ = misses_ = evictions_ = 0; }

 private:
  using LineIndex = std::uint32_t;
  static constexpr std::size_t kFirstScores = 8, kMoreScores = 15;

  // `next` is the entry's next line; in the last line, kEnd | the number of the entry's scores.
  struct First {
    LineIndex next;
    LineIndex older, newer;  // neighbours in the order of use
    LineIndex same_bucket;
    Key key;
    float scores[kFirstScores];
  };
  struct More {
    LineIndex next;
    float scores[kMoreScores];
  };
  union Line {
    First first;
    More more;
  };
  static_assert(sizeof(Line) == 64);

  static std::size_t lines_for(std::size_t scores);
  static std::size_t checked(std::size_t bytes, Index experts, Index most_rows);
  template <class Visit>
  LineIndex walk(LineIndex first, std::size_t count, Visit&& visit);
  LineIndex& bucket_of(const Key& key);
  LineIndex entry_of(const Key& key);
  void make_newest(LineIndex entry);
  void leave_order(LineIndex entry);
  void remove(LineIndex entry);

  Arena arena_;
  std::size_t experts_, most_scores_;
  std::span<Line> lines_;
  std::span<LineIndex> buckets_;  // as many buckets as lines
  LineIndex unused_ = 0;          // first line of the chain of unused lines
  LineIndex oldest_ = 0, newest_ = 0;
  std::size_t used_lines_ = 0;
  Index entries_ = 0;
  Index hits_ = 0, misses_ = 0, evictions_ = 0;
};

}  // namespace conclave

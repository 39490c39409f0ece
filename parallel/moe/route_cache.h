// A router's scores for inputs that were seen before, looked up instead of computed; for inference, where
// weights stand still. The key is a 128-bit hash of the bytes of the input and of all else that the scores
// depend on, and it is compared whole: two given inputs share a key with probability 2^-128. (XXH3 is no
// defence against somebody who can choose the router's input bit by bit.)
//
// All memory is one array of lines of 64 bytes, taken at construction. An entry is a chain of lines: the
// first has the key, the links and 8 scores, each further one 15 scores; so one decision among 8 experts is
// one cache line, a long text has as many lines as it needs, and no place is ever too fragmented to be used.
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
  std::size_t bytes = 0;                      ///< that the entries fill now, of `capacity`
  std::size_t capacity = 0;                   ///< for lines; their index is another 4 bytes for each of 64
  /// Hits of all look-ups, 0 before the first.
  double hit_rate() const;
};

/// For one thread. Serves any number of routers with the same number of experts, told apart by their
/// versions.
class RouteCache {
 public:
  struct Key {
    std::uint64_t low = 0, high = 0;
    bool operator==(const Key&) const = default;
  };

  /// At most `bytes`, all taken now, for entries of at most `most_rows` rows of `experts` scores. Throws
  /// Error, naming moe.route_cache_mib, where that is more than the memory available or too little for one
  /// entry.
  RouteCache(std::size_t bytes, Index experts, Index most_rows);

  /// XXH3-128 of features [tokens, hidden] (contiguous, else Error; any shape), their shape and dtype, and
  /// `router_version`: a number that no other router has, and that changes whenever the weights do.
  static Key key(std::uint64_t router_version, const Tensor& features);

  /// Copies what was inserted under `key` to `scores`, makes it the most recently used and returns true;
  /// leaves `scores` as they are and returns false where nothing is there. Throws Error where what is there
  /// has another size.
  bool find(const Key& key, std::span<float> scores);

  /// Keeps a copy of `scores` [rows, experts], in place of what `key` had before; the entries least recently
  /// used give way. Throws Error where `scores` are not 1 to most_rows whole rows.
  void insert(const Key& key, std::span<const float> scores);

  /// Forgets all entries, in time that grows with the capacity; hits, misses and evictions keep counting.
  void clear();

  RouteCacheStatistics statistics() const;
  void reset_statistics() { hits_ = misses_ = evictions_ = 0; }

 private:
  using LineIndex = std::uint32_t;
  static constexpr std::size_t kFirstScores = 8, kMoreScores = 15;

  // `next` is the entry's next line; behind its last, kEnd and the number of its scores.
  struct First {
    LineIndex next;
    LineIndex older, newer;  // in the order of use
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
  std::span<LineIndex> buckets_;  // as many as lines
  LineIndex unused_ = 0;          // first of a chain
  LineIndex oldest_ = 0, newest_ = 0;
  std::size_t used_lines_ = 0;
  Index entries_ = 0;
  Index hits_ = 0, misses_ = 0, evictions_ = 0;
};

}  // namespace conclave

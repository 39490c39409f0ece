// Cuts a split into global batches of at most `tokens` tokens and gives each rank its share. Sequences of a
// batch are similar in length, so that padding them wastes little. An image counts as the number of rows that
// the model has for it. The sequences of batch b of epoch e and their order depend on the seed alone, not on
// the number of ranks. A rank's share is a run of consecutive sequences of the batch.
//
// An epoch's plan: (1) shuffle the sequences; (2) sort windows of about 256 batches by length, ascending and
// descending in turn, so that neighbours across a window's edge are similar in length, too; (3) cut the
// result into the same number of batches every epoch, closing each batch when it holds its part of the
// remaining tokens; (4) shuffle the batches. Every batch holds about total / batches_per_epoch() tokens,
// which is the budget minus at most the length of the longest sequence.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/random.h"
#include "data/dataset.h"
#include "data/image_transform.h"

namespace conclave {

struct BatcherOptions {
  std::int64_t tokens = 8192;  ///< upper limit of a global batch, over all ranks
  std::uint64_t seed = 0;
  bool shuffle = true;  ///< false: sort by length only, the same in every epoch (evaluation)
  int rank = 0;
  int ranks = 1;
  std::int64_t image_tokens = 0;  ///< number of model rows for an image
  /// Random changes made to an image each time it is used; nullopt: none.
  std::optional<AugmentationOptions> augmentation = std::nullopt;
};

/// Position of training in the data; enough to resume within an epoch.
struct DataPosition {
  std::int64_t epoch = 0;
  std::int64_t batch = 0;  ///< within the epoch
  bool operator==(const DataPosition&) const = default;
};

/// One rank's share of a global batch. Each example consists of model rows: first the rows of its image, then
/// its text's tokens.
///
/// Vectors keep their capacity, so refilling a batch allocates nothing after the first time. A share may be
/// empty (offsets is then {0}) if there are few long sequences and many ranks.
struct Batch {
  std::vector<std::int32_t> tokens;           ///< [local text tokens], texts end to end
  std::vector<std::int32_t> positions;        ///< [local text tokens], position within the text
  std::vector<std::int32_t> text_offsets{0};  ///< [local sequences + 1], offsets into `tokens`
  std::vector<std::int32_t> offsets{0};       ///< [local sequences + 1], offsets in rows, images included
  std::vector<std::int32_t> labels;           ///< [local sequences]
  std::vector<std::int32_t> in_domain;        ///< [local sequences], 1 for examples of the domain, else 0
  std::vector<std::int64_t> examples;         ///< [local sequences], index in the split
  std::vector<std::uint8_t> images;           ///< [local images, height, width, channels]
  std::vector<std::int32_t> image_sequences;  ///< [local images], local sequence of each image, ascending
  std::int64_t first_token = 0;               ///< index of this share's first row in the global batch
  std::int64_t first_sequence = 0;
  std::int64_t global_tokens = 0;  ///< in rows, images included
  std::int64_t global_sequences = 0;
  std::int64_t global_images = 0;
  DataPosition next;  ///< position of the batch after this one

  std::int64_t local_tokens() const { return offsets.back(); }
  std::int64_t local_sequences() const { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t local_images() const { return static_cast<std::int64_t>(image_sequences.size()); }

  void clear();
  /// Appends a sequence: a text and, if `image_bytes` > 0, an image of that many bytes that counts as
  /// `image_tokens` rows. Returns the memory of the image, which the caller must fill. The caller also
  /// appends to `examples` and `in_domain`.
  std::span<std::uint8_t> add(std::span<const std::int32_t> text, std::int32_t label,
                              std::int64_t image_tokens = 0, std::size_t image_bytes = 0);
};

class DynamicBatcher {
 public:
  /// `split` must outlive the batcher. A split without sequences has no batches. Throws Error if a sequence
  /// is empty or longer than the token budget, or if an option is out of range.
  DynamicBatcher(const TokenizedSplit& split, const BatcherOptions& options);

  /// Model rows of a sequence of the split, those of its image included.
  std::int64_t length(std::int64_t sequence) const;
  bool has_image(std::int64_t sequence) const;

  /// The same number for every epoch, seed and number of ranks.
  std::int64_t batches_per_epoch() const { return batches_; }

  /// Fills `batch` with this rank's share of the batch at `position`; position.batch == batches_per_epoch()
  /// means the first batch of the next epoch. Rank r of R takes the sequences whose first token is in [r T /
  /// R, (r + 1) T / R) of the batch's T tokens. Allocates only on the first call and for a new `batch`.
  /// Throws Error for a position past the epoch.
  void fill(DataPosition position, Batch& batch);

  /// Fills `batch` with the longest prefix of `sequences` that fits into a share and returns its length. The
  /// global counts of `batch` then cover these sequences alone. Changes to images depend on `seed`, `epoch`
  /// and the sequence's index. A seed that nobody knows hides which index a sequence has, and so how many
  /// others there are.
  std::size_t fill_with(std::span<const std::int64_t> sequences, std::uint64_t seed, std::int64_t epoch,
                        Batch& batch) const;

  /// Reserves memory in `batch` for the largest share, so that fill() does not allocate.
  void reserve(Batch& batch) const;

  /// What a made-up batch maximizes, besides rows: the number of sequences, the tokens of texts (where images
  /// and texts come together), or the number of images.
  enum class Most { sequences, text, images };
  /// The maxima that differ for this split and can occur: e.g. `images` is left out if every sequence has
  /// both an image and a text.
  std::span<const Most> extremes() const;

  /// Fills `batch` with a made-up batch for the run that plans memory.
  /// Tokens: a global batch has at most G = ceil(total / batches_per_epoch()) + longest - 1 (<= the budget),
  /// a share at most P = min(G, ceil(G / ranks) + longest - 1).
  /// Sequences: any n sequences have at least the tokens of the split's n shortest, so P tokens bound n.
  /// Most::sequences takes those shortest sequences, and one more if tokens are left over; Most::images takes
  /// images without text; Most::text takes the longest sequences. If all sequences of the split have both an
  /// image and a text, so do the made-up ones, even if the batch then exceeds P by a few tokens.
  void fill_largest(Batch& batch, Most most = Most::sequences) const;

  /// Share of padding if each global batch were a [sequences, longest] rectangle, over epoch 0.
  double padding() const;

 private:
  struct Plan {
    std::int64_t epoch = -1;
    std::vector<std::uint32_t> shuffled;  // [sequences], a permutation
    std::vector<std::uint64_t> keys;      // [sequences], length << 32 | index in `shuffled`
    std::vector<std::uint32_t> order;     // [sequences], `shuffled` sorted by length within windows
    std::vector<std::int64_t> first;      // [batches + 1], offsets into `order`
    std::vector<std::uint32_t> batches;   // [batches], shuffled order of the batches
  };
  void build(std::int64_t epoch, Plan& plan) const;
  void order_sequences(const RandomStream& stream, Plan& plan) const;
  void cut(Plan& plan) const;
  void append(std::int64_t sequence, std::uint64_t seed, std::int64_t epoch, Batch& batch) const;
  void start(Batch& batch) const;
  void append_made_up(std::int64_t length, Batch& batch) const;

  const TokenizedSplit* split_;
  BatcherOptions options_;
  std::int64_t batches_ = 0, total_ = 0, longest_ = 0, longest_text_ = 0;
  bool all_both_ = false;                              // every sequence has a text and an image
  std::int64_t global_tokens_ = 0, share_tokens_ = 0;  // G and P of fill_largest
  std::int64_t global_sequences_ = 0;                  // most sequences in a global batch
  std::vector<std::int32_t> shortest_;                 // lengths of the shortest, as many as fit into P
  std::optional<Augmentation> augmentation_;
  Plan plan_;
};

}  // namespace conclave

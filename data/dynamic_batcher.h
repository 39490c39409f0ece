// Cuts a split into global batches of at most `tokens` tokens, alike in length so that a padded consumer
// wastes little, and hands each rank its share. An image counts as so many tokens as a model has rows for it.
// Which sequences form batch number b of epoch e, and in which order, depends on the seed alone and not on
// the number of ranks; a rank's share is a run of consecutive sequences of the batch.
//
// An epoch's plan: shuffle the sequences; sort windows of about 256 batches by length, upwards and downwards
// in turn, so that neighbours across a window's edge are alike too; cut the row into the same number of
// batches every epoch, each closed as soon as it holds its part of the tokens that are left; shuffle the
// batches. Every batch holds about total / batches_per_epoch() tokens, which is the budget less at most the
// longest sequence.
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
  std::int64_t tokens = 8192;  ///< most tokens in a global batch, over all ranks
  std::uint64_t seed = 0;
  bool shuffle = true;  ///< false: by length only, every epoch alike (evaluation)
  int rank = 0;
  int ranks = 1;
  std::int64_t image_tokens = 0;  ///< rows of a model that an image counts as
  /// How images are changed each time they are seen; without, they are as they are.
  std::optional<AugmentationOptions> augmentation = std::nullopt;
};

/// Where training stands in the data; enough to resume in the middle of an epoch.
struct DataPosition {
  std::int64_t epoch = 0;
  std::int64_t batch = 0;  ///< within the epoch
  bool operator==(const DataPosition&) const = default;
};

/// Rows of a model: of an example first those that stand for its image, then its text's tokens.
///
/// One rank's share of a global batch; vectors keep their capacity, so refilling allocates nothing once warm.
/// A share may be empty (offsets is then {0}): few long sequences on many ranks.
struct Batch {
  std::vector<std::int32_t> tokens;           ///< [local text tokens], texts end to end
  std::vector<std::int32_t> positions;        ///< [local text tokens], position within the text
  std::vector<std::int32_t> text_offsets{0};  ///< [local sequences + 1], of tokens
  std::vector<std::int32_t> offsets{0};       ///< [local sequences + 1], of all rows
  std::vector<std::int32_t> labels;           ///< [local sequences]
  std::vector<std::int32_t> in_domain;        ///< [local sequences], 1 for texts of the domain, else 0
  std::vector<std::int64_t> examples;         ///< [local sequences], index in the split
  std::vector<std::uint8_t> images;           ///< [local images, height, width, channels]
  std::vector<std::int32_t> image_sequences;  ///< [local images], the sequence of each, rising
  std::int64_t first_token = 0;               ///< of this share's rows, within the global batch
  std::int64_t first_sequence = 0;
  std::int64_t global_tokens = 0;  ///< rows
  std::int64_t global_sequences = 0;
  std::int64_t global_images = 0;
  DataPosition next;  ///< where to go on after this batch

  std::int64_t local_tokens() const { return offsets.back(); }
  std::int64_t local_sequences() const { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t local_images() const { return static_cast<std::int64_t>(image_sequences.size()); }

  void clear();
  /// A further sequence: a text, and an image that stands for `image_tokens` rows and comes from
  /// `image_bytes`, of which the caller sets the values; none where that is 0.
  std::span<std::uint8_t> add(std::span<const std::int32_t> text, std::int32_t label,
                              std::int64_t image_tokens = 0, std::size_t image_bytes = 0);
};

class DynamicBatcher {
 public:
  /// `split` must outlive the batcher; one without sequences has no batches. Throws Error where a sequence is
  /// empty or longer than the token budget, or the options make no sense.
  DynamicBatcher(const TokenizedSplit& split, const BatcherOptions& options);

  /// The same for every epoch, seed and number of ranks.
  std::int64_t batches_per_epoch() const { return batches_; }

  /// Fills `batch` with this rank's share of the batch at `position`; position.batch == batches_per_epoch()
  /// wraps to the next epoch. Rank r of R takes the sequences whose first token is in [r T / R, (r + 1) T /
  /// R) of the batch's T tokens. Allocates only when `batch` is new. Throws Error for a position past the
  /// epoch.
  void fill(DataPosition position, Batch& batch);

  /// Fills `batch` with as many of `sequences`, from the first, as a share may have, and returns how many;
  /// what it says of the global batch is of these alone. `epoch` is for how images are changed.
  std::size_t fill_with(std::span<const std::int64_t> sequences, std::int64_t epoch, Batch& batch) const;

  /// Gives `batch` the memory that any share needs, so that fill() allocates nothing.
  void reserve(Batch& batch) const;

  /// What a made-up batch has as much of as any share can get, beside rows: sequences, images, or, where both
  /// come together, tokens of texts.
  enum class Most { sequences, text, images };
  /// Which of them differ for this split, and can be: no image comes alone where all have texts.
  std::span<const Most> extremes() const;

  /// A made-up batch for the planning run.
  /// Tokens: a global batch has at most G = ceil(total / batches_per_epoch()) + longest - 1 (<= the budget),
  /// a share at most P = min(G, ceil(G / ranks) + longest - 1). Sequences: n of them have at least the tokens
  /// of the n shortest of the split, so P tokens bound n; the batch is made of those shortest, and one more
  /// where that leaves tokens over. Or it is made of images without text, or of the longest sequences. Where
  /// all sequences have both, so have those made up, be it a few tokens more than P.
  void fill_largest(Batch& batch, Most most = Most::sequences) const;

  /// Share of a [sequences, longest] rectangle per global batch that would be padding, over epoch 0.
  double padding() const;

 private:
  struct Plan {
    std::int64_t epoch = -1;
    std::vector<std::uint32_t> shuffled;  // [sequences], a permutation
    std::vector<std::uint64_t> keys;      // [sequences], length << 32 | place in the window
    std::vector<std::uint32_t> order;     // [sequences], the row that is cut
    std::vector<std::int64_t> first;      // [batches + 1], places in `order`
    std::vector<std::uint32_t> batches;   // [batches], the order batches come in
  };
  void build(std::int64_t epoch, Plan& plan) const;
  void order_sequences(const RandomStream& stream, Plan& plan) const;
  void cut(Plan& plan) const;
  std::int64_t length(std::int64_t sequence) const;
  bool has_image(std::int64_t sequence) const;
  void append(std::int64_t sequence, std::int64_t epoch, Batch& batch) const;
  void start(Batch& batch) const;
  void append_made_up(std::int64_t length, Batch& batch) const;

  const TokenizedSplit* split_;
  BatcherOptions options_;
  std::int64_t batches_ = 0, total_ = 0, longest_ = 0, longest_text_ = 0;
  bool all_both_ = false;                              // every sequence has a text and an image
  std::int64_t global_tokens_ = 0, share_tokens_ = 0;  // G and P of fill_largest
  std::int64_t global_sequences_ = 0;                  // most in a global batch
  std::vector<std::int32_t> shortest_;                 // lengths of as many of the shortest as fit into P
  std::optional<Augmentation> augmentation_;
  Plan plan_;
};

}  // namespace conclave

// Writes captions of images token by token with a trained captioner: greedily, by beam search, or by
// sampling.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "recipes/inference/caption_options.h"
#include "recipes/models/loaded_model.h"

namespace conclave {

struct WrittenCaption {
  std::vector<std::int32_t> tokens;  ///< without the end token; at least one
  /// Of the tokens and, unless the caption was cut off, of its end token, by the model restricted to the
  /// tokens that may be written.
  double log_probability = 0;
};

class CaptionWriter {
 public:
  static constexpr std::size_t kTexts = 32;  ///< per forward pass, unless one image's beam is larger

  /// Writes captions of at most `max_length` tokens. may_write [vocabulary] is 0 for tokens that are never
  /// written. `captioner` must outlive the writer.
  CaptionWriter(Captioner& captioner, std::vector<std::uint8_t> may_write, std::int64_t max_length,
                Device device = Device::cpu);

  /// Writes the tokens that `model`'s tokenizer spells. Throws Error if the model was not trained to caption.
  CaptionWriter(LoadedModel& model, const ProcessGrid& grid);

  /// Returns one caption for each image of `pixels` [images, bytes of one] u8, in host memory, in order. The
  /// tokens drawn for image i depend only on the image, the options and first + i. Throws Error for invalid
  /// options. Collective over the expert-parallel group; all its ranks must give the same images.
  std::vector<WrittenCaption> write(const Tensor& pixels, const CaptionOptions& options,
                                    std::int64_t first = 0);
  /// Begins the same work in steps. step() writes to `captions` [images] and reuses their memory, so nothing
  /// is allocated once as many captions were written at a time. `pixels` and `captions` must stay valid until
  /// the last step.
  void begin(const Tensor& pixels, const CaptionOptions& options, std::int64_t first,
             std::span<WrittenCaption> captions);
  /// Adds one token to each caption of the current group of images; returns false after the last step.
  /// Collective, like write().
  bool step();
  /// For services: allocates the memory of all that begin() and step() do from now on, with a beam of at most
  /// kTexts. Returns its bytes. Without plan(), memory grows with the batches, on a device within a block of
  /// most of its free memory. Collective; on several ranks, call it before the first caption. Call it again
  /// if a dispatcher's buffer has grown since.
  std::size_t plan(Index image_bytes);

 private:
  // A caption in progress: a row of the model's passes.
  struct Unfinished {
    std::size_t image = 0;
    WrittenCaption written;
  };
  // A token that may continue one of the captions.
  struct Candidate {
    std::size_t text;
    std::int32_t token;
    double log_probability;  // of the caption with this token
  };
  struct Best {
    double score;  // of the image's best finished caption
    std::size_t finished;
  };
  void score(const Tensor& logits, bool may_end);
  void find_likeliest(std::size_t begin, std::size_t end, std::size_t most);
  Candidate draw(std::size_t text, double uniform);
  void begin_some(std::size_t images);
  void append_tokens(std::span<WrittenCaption> captions);
  void finish(const Unfinished& text, bool ended, WrittenCaption& caption);
  void reserve(std::size_t texts, std::size_t images);

  Captioner& captioner_;
  std::vector<std::uint8_t> may_write_;
  std::int64_t max_length_;
  Device device_;
  std::optional<Arena> activations_;
  std::vector<double> scores_;  // [texts, vocabulary], logarithms of probabilities
  // Buffers of a step. They only grow, so that later steps reuse their memory.
  std::vector<Unfinished> texts_, next_;
  std::vector<Best> best_;             // [images]
  std::vector<Candidate> candidates_;  // of one image
  std::vector<std::int32_t> tokens_, parents_, order_;
  std::vector<double> weights_;
  // Progress since begin(). Images before done_ have their captions. The group of images after them is in
  // progress, with unfinished_ captions of written_ tokens each.
  Tensor pixels_;
  CaptionOptions options_;
  std::int64_t first_ = 0, most_ = 0;
  std::span<WrittenCaption> captions_;
  Index done_ = 0;
  std::size_t unfinished_ = 0;
  std::int64_t written_ = 0;
  std::optional<KeyValueCache> cache_;
  bool planning_ = false;
};

}  // namespace conclave

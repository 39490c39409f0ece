// Texts of images, written token by token by a trained captioner: the likeliest token each time, a beam of
// the likeliest texts, or tokens drawn at random.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "recipes/caption_options.h"
#include "recipes/loaded_model.h"

namespace conclave {

struct WrittenCaption {
  std::vector<std::int32_t> tokens;  ///< without the end; at least one
  /// Of the tokens and, where the text was not cut off, its end: the model's, among the tokens that may be
  /// written.
  double log_probability = 0;
};

class CaptionWriter {
 public:
  /// Of texts of at most `max_length` tokens; may_write [vocabulary] is 0 for tokens that are never written.
  /// `captioner` must outlive the writer.
  CaptionWriter(Captioner& captioner, std::vector<std::uint8_t> may_write, std::int64_t max_length,
                Device device = Device::cpu);

  /// Of what `model`'s tokenizer spells. Throws Error where it was not trained to caption.
  CaptionWriter(LoadedModel& model, const ProcessGrid& grid);

  /// One text for each image of `pixels` [images, bytes of one] u8, in host memory, in order. What is drawn
  /// for image i depends on it, the options and first + i alone. Throws Error for options that make no sense.
  /// Collective over the expert-parallel group, all of whose ranks give it the same images.
  std::vector<WrittenCaption> write(const Tensor& pixels, const CaptionOptions& options,
                                    std::int64_t first = 0);
  /// Begins the same: step() writes to `captions` [images], whose memory is used again, so that once there
  /// were as many texts at once, nothing is allocated. Until its last, pixels and captions stay where they
  /// are.
  void begin(const Tensor& pixels, const CaptionOptions& options, std::int64_t first,
             std::span<WrittenCaption> captions);
  /// A further token of each text of some of the images; false after the last. Collective, as write().
  bool step();
  /// Whether passes are only to tell the experts' dispatchers what room they need: on several ranks the first
  /// one is to be such, of a batch as large as there will be. Its results are worth nothing.
  void set_planning(bool planning) { planning_ = planning; }

 private:
  // A row of the model's passes.
  struct Unfinished {
    std::size_t image = 0;
    WrittenCaption written;
  };
  // A token behind one of the texts.
  struct Candidate {
    std::size_t text;
    std::int32_t token;
    double log_probability;  // of the whole
  };
  struct Best {
    double score;  // of its text so far
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
  Arena activations_;
  std::vector<double> scores_;  // [texts, vocabulary], logarithms of probabilities
  // What a step works in, of which no text is ever given back: the next one is written over it.
  std::vector<Unfinished> texts_, next_;
  std::vector<Best> best_;             // [images]
  std::vector<Candidate> candidates_;  // of an image
  std::vector<std::int32_t> tokens_, parents_, order_;
  std::vector<double> weights_;
  // What there is to write. Images before done_ have their texts; of those after, some are at work, whose
  // unfinished_ texts have written_ tokens each.
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

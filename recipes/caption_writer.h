// Texts of images, written token by token by a trained captioner: the likeliest token each time, a beam of
// the likeliest texts, or tokens drawn at random. For one process.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "recipes/models/captioner.h"

namespace conclave {

struct CaptionOptions {
  /// Texts of an image that are followed at once; 1: the likeliest token is taken each time.
  std::int64_t beam = 1;
  /// Which of a beam's texts wins: the one of the highest log P / ((5 + n) / 6)^length_penalty, n being its
  /// tokens with its end (Wu et al. 2016, arXiv:1609.08144, eq. 14). 0: the likeliest, which favours short
  /// ones.
  double length_penalty = 0.6;
  /// Above 0: tokens are drawn from the fewest that together have this probability (nucleus sampling,
  /// Holtzman et al. 2020, arXiv:1904.09751), and there is no beam.
  double top_p = 0;
  double temperature = 1;  ///< of what is drawn from: scores are divided by it
  std::uint64_t seed = 1;
  std::int64_t max_tokens = 0;  ///< where a text is cut off; 0: as long as the model's texts get
};

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

  /// One text for each image of `pixels` [images, bytes of one] u8, in host memory, in order. What is drawn
  /// for image i depends on it, the options and first + i alone. Throws Error for options that make no sense.
  std::vector<WrittenCaption> write(const Tensor& pixels, const CaptionOptions& options,
                                    std::int64_t first = 0);

 private:
  struct Candidate;
  struct Unfinished;
  void score(const Tensor& logits, bool may_end);
  std::vector<Candidate> likeliest(const std::vector<Unfinished>& texts, std::size_t begin, std::size_t end,
                                   std::size_t most) const;
  Candidate draw(const std::vector<Unfinished>& texts, std::size_t text, double uniform,
                 const CaptionOptions& options) const;
  void write_some(const Tensor& pixels, const CaptionOptions& options, std::int64_t first,
                  std::vector<WrittenCaption>& captions);

  Captioner& captioner_;
  std::vector<std::uint8_t> may_write_;
  std::int64_t max_length_;
  Arena activations_;
  std::vector<double> scores_;  // [texts, vocabulary], logarithms of probabilities
};

}  // namespace conclave

// How texts of images are written.
#pragma once

#include <cstdint>

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

}  // namespace conclave

// How captions are written.
#pragma once

#include <cstdint>

namespace conclave {

struct CaptionOptions {
  /// Candidate captions per image in a beam search; 1: greedy decoding.
  std::int64_t beam = 1;
  /// The best caption of a beam has the highest log P / ((5 + n) / 6)^length_penalty, where n counts its
  /// tokens including the end token (Wu et al. 2016, arXiv:1609.08144, eq. 14). 0 compares probabilities
  /// alone, which favours short captions.
  double length_penalty = 0.6;
  /// Above 0: nucleus sampling without a beam. Tokens are drawn from the smallest set that has at least this
  /// probability (Holtzman et al. 2020, arXiv:1904.09751).
  double top_p = 0;
  double temperature = 1;  ///< scores are divided by it before a token is drawn
  std::uint64_t seed = 1;
  std::int64_t max_tokens = 0;  ///< where a caption is cut off; 0: at the length of the model's longest texts
};

}  // namespace conclave

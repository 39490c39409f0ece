// A block of an image encoder, as a recipe's image.blocks describes it.
#pragma once

#include <string>

#include "core/kernels/matmul.h"

namespace conclave {

/// One block, as a recipe has it.
struct ImageBlock {
  Index window = 3;
  Index expansion = 1;
  Index channels = 0;  ///< of the output
  Index stride = 1;
  bool squeeze_excite = false;
  Activation activation = Activation::relu;
};

/// "k5 x4 c40 s2 se hs": a window of 5, 4 times the channels in the middle, 40 output channels, a stride of
/// 2, squeeze-excitation, hard-swish. k, x and c are required; the defaults of the others are stride 1, no
/// squeeze-excitation, and relu. Throws Error, which says what is allowed, for any other text.
ImageBlock image_block(const std::string& text);

}  // namespace conclave

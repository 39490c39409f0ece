// A batch as models take it.
#pragma once

#include "core/tensor.h"
#include "data/dynamic_batcher.h"

namespace conclave {

/// A batch's arrays as tensors in host memory, borrowed from it.
struct ModelInput {
  Tensor tokens;           ///< [text tokens] i32
  Tensor positions;        ///< [text tokens] i32
  Tensor text_offsets;     ///< [sequences + 1] i32, of tokens
  Tensor offsets;          ///< [sequences + 1] i32, of rows: an image's rows, then its text's
  Tensor labels;           ///< [sequences] i32
  Tensor in_domain;        ///< [sequences] i32, for ForwardContext
  Tensor images;           ///< [images, bytes of one] u8
  Tensor image_sequences;  ///< [images] i32

  Index sequences() const { return labels.size(0); }
};
/// `batch` must outlive the result and not change meanwhile.
ModelInput model_input(const Batch& batch);

}  // namespace conclave

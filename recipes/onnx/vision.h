// Writes the image encoder as nodes of an ONNX graph. Images within the graph are [images, channels, height,
// width].
#pragma once

#include "data/image.h"
#include "recipes/models/image_encoder.h"
#include "recipes/onnx/layers.h"

namespace conclave::onnx {

/// images [batch, height, width, channels] u8 -> features [batch * grid, hidden], one row for each pixel of
/// the encoder's output. Throws Error for an encoder that cannot be exported.
Value encode_images(Graph& graph, const Value& images, const ImageShape& shape, const ImageEncoder& encoder);

}  // namespace conclave::onnx

#include "recipes/models/model_input.h"

#include <algorithm>

namespace conclave {
namespace {

// Kernels do not write to a model's inputs, so casting constness away is safe here.
template <class T>
Tensor borrow(const std::vector<T>& values, const Shape& shape, DType dtype) {
  return Tensor::borrow(const_cast<T*>(values.data()), shape, dtype);
}
Tensor borrow(const std::vector<std::int32_t>& values) {
  return borrow(values, {static_cast<Index>(values.size())}, DType::i32);
}

}  // namespace

ModelInput model_input(const Batch& batch) {
  const Index images = batch.local_images();
  return {.tokens = borrow(batch.tokens),
          .positions = borrow(batch.positions),
          .text_offsets = borrow(batch.text_offsets),
          .offsets = borrow(batch.offsets),
          .labels = borrow(batch.labels),
          .in_domain = borrow(batch.in_domain),
          .images = borrow(batch.images,
                           {images, static_cast<Index>(batch.images.size()) / std::max<Index>(images, 1)},
                           DType::u8),
          .image_sequences = borrow(batch.image_sequences)};
}

}  // namespace conclave

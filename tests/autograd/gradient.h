// Helpers for tests of derivatives.
#pragma once

#include <vector>

#include "autograd/functions/functions.h"
#include "autograd/gradcheck.h"
#include "tests/core/values.h"

namespace conclave {

/// A view of `tensor`, which stays alive until the program ends. For constants that a function keeps for its
/// backward pass: a tape does not own the memory of such tensors.
inline Tensor kept(const Tensor& tensor) {
  static std::vector<Tensor> owners;
  owners.push_back(tensor);
  return Tensor::borrow(tensor.raw(), tensor.shape(), tensor.dtype());
}

inline Tensor kept_ids(const std::vector<std::int32_t>& values) {
  return kept(Tensor::of<std::int32_t>({static_cast<Index>(values.size())}, values));
}

using Inputs = std::span<const Tensor>;

/// Largest difference between a function's gradient and its numerical derivative, over all inputs.
inline double gradient_error(const std::function<Tensor(Tape&, Inputs)>& function,
                             std::vector<Tensor> inputs) {
  return gradcheck(function, std::move(inputs)).worst;
}

inline constexpr double kGradientTolerance = 1e-6;

}  // namespace conclave
